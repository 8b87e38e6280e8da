"""Load from one host on an endpoint of an instance on others, and what the oracle says of it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType

from tests.faults.support.load import WAYS
from tests.faults.support.oracle import Outcome, Run, events_in, outcomes_in, violations
from tests.nodes.support.hosts import Host
from tests.support.waiting import wait_until

_numbers = itertools.count()
JOURNAL = "/tmp/journal"
"""Where a `Recorder` notes its requests, on its own host."""


class HostLoad:
    """A load on *host*; a context manager that starts and stops it."""

    def __init__(
        self,
        host: Host,
        address: str,
        url: str,
        endpoint: str,
        *,
        ways: Sequence[str] = WAYS,
        rate: float = 40.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        log = f"/tmp/load{next(_numbers)}"  # the ids of requests begin with its name
        self._log = host.path(log)
        self._process = host.start(
            *(sys.executable, "-m", "tests.faults.support.load", "--address", address, "--url", url),
            *("--endpoint", endpoint, "--log", log, "--rate", str(rate), "--timeout", "5"),
            *("--ways", ",".join(ways)),
            environment=environment,
        )

    def __enter__(self) -> HostLoad:
        self.wait_for_more(1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(60) == 0
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def outcomes(self) -> list[Outcome]:
        """Return how requests went so far."""
        return outcomes_in(self._log)

    def wait_for_more(self, count: int) -> None:
        """Wait until *count* requests more than now are over."""
        size = len(self.outcomes()) + count
        wait_until(lambda: len(self.outcomes()) >= size, 60.0)

    def wait_for_answers(self, after: float, count: int) -> None:
        """Wait until *count* requests that were sent *after* that time are answered."""
        wait_until(lambda: sum(o.ok and o.sent > after for o in self.outcomes()) >= count, 60.0)

    def checked(self, *hosts: Host, is_late: bool = False) -> Run:
        """Return the run, with the journals of *hosts*, after the load has ended. Assert that the invariants hold.

        With *is_late*, clients over HTTP were cut off for longer than their deadlines. Their requests may start late,
        because the proxy counts the time from the arrival.
        """
        events = [event for host in hosts for event in events_in(host.path(JOURNAL))]
        sent = self._log.with_suffix(".sent").read_text().split()
        known = set(sent)
        run = Run([event for event in events if event.id in known], self.outcomes(), sent)
        found = violations(run)
        if is_late:
            found.pop("in_time", None)
        assert found == {}, found
        return run
