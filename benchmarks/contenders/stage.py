"""A process for one contender, and its few orders: load the contender with calls, ask it, end it.

Orders and answers are JSON lines over the standard streams. The output of servers goes to a log file.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, cast

from benchmarks import BODY
from benchmarks.contenders import processes
from benchmarks.contenders.contender import Contender, Entry
from benchmarks.contenders.entries import CALLERS
from benchmarks.load.calls import ClosedLoop, Kind, Timing
from benchmarks.load.web_load import REPOSITORY

START_LIMIT_S = 180.0
ANSWER_LIMIT_S = 60.0


class StageError(RuntimeError):
    """A contender could not start or failed under load. The message holds the contender's own error."""


class Stage:
    """The near side: starts the process, sends orders, ends everything.

    Attributes:
        url: URL of the contender, or None without an HTTP side.
    """

    def __init__(self, entry: Entry, environment: Mapping[str, str] | None = None) -> None:
        """Start the process and wait until the contender is up.

        Raises:
            StageError: The contender did not start.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
        directory = Path(self._directory.name)
        self._log = directory / "stage.log"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders.stage", entry.factory, str(directory), *entry.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=_environment(entry, directory) | dict(environment or {}),
            start_new_session=True,  # Ctrl-C reaches only the near side, which then ends the stage
        )
        self._lost = False
        try:
            self.url: str | None = self._answer(START_LIMIT_S)["url"]
        except BaseException:  # after an interrupt, too, nothing must be left running
            self.stop()
            raise

    def serving_pids(self) -> frozenset[int]:
        """Return the ids of all processes of this contender, including callers in Python."""
        return processes.stage_pids(self._directory.name, self._process.pid)

    def offers(self, kind: Kind) -> bool:
        """Return whether the contender can be called this way."""
        return bool(self._order({"order": "offers", "kind": kind})["offers"])

    def load(self, kind: Kind, concurrency: int, seconds: float) -> Timing:
        """Load the contender with calls from Python; see `ClosedLoop.load`.

        Raises:
            StageError: A call failed, or had no answer a minute after the end of the load.
        """
        order = {"order": "load", "kind": kind, "concurrency": concurrency, "seconds": seconds}
        return Timing(**self._order(order, seconds + ANSWER_LIMIT_S)["timing"])

    def ask(self, method: str, *, limit_s: float = ANSWER_LIMIT_S, **arguments: object) -> Any:
        """Call a method of the contender itself. Arguments and result are JSON.

        Raises:
            StageError: The method raised, or did not return within *limit_s* seconds.
        """
        return self._order({"order": "ask", "method": method, "arguments": arguments}, limit_s)["result"]

    def stop(self) -> None:
        """End the contender and its remaining processes, and delete its files."""
        with suppress(StageError, subprocess.TimeoutExpired):  # a stage that does not end by itself is ended below
            self._order({"order": "stop"})
            self._process.wait(30)
        processes.end(self.serving_pids())
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            cast(TextIO, stream).close()
        self._directory.cleanup()

    def _order(self, order: Mapping[str, object], limit_s: float = ANSWER_LIMIT_S) -> dict[str, Any]:
        if self._lost:
            raise StageError("the contender ended or hung before")
        with suppress(OSError):  # the process has ended: the log, read below, may hold the reason
            print(json.dumps(order), file=self._process.stdin, flush=True)
        return self._answer(limit_s)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        # The answer to an order is one line, so no data stays in the stream's buffer, which select cannot see.
        answers = cast(TextIO, self._process.stdout)
        line = answers.readline() if select.select([answers], [], [], limit_s)[0] else ""
        if not line:
            self._lost = True
            raise StageError(f"{self._log.read_text()[-2000:]}\nended, or silent for {limit_s:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise StageError(answer["error"])
        return answer


def _environment(entry: Entry, directory: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "RAY_USAGE_STATS_ENABLED": "0",
        processes.MARK: str(directory),
        **entry.environment(directory),
    }


class _Far:
    """The far side: owns the contender, and the stage of its separate caller if it names one."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._loop = ClosedLoop(contender.calls) if contender.calls else None
        wrong = [answer for answer in (self._loop.answers() if self._loop else ()) if answer != BODY]
        if wrong:
            raise StageError(f"answered {wrong[0]!r:.200}, not {BODY!r}")
        caller = contender.caller
        self._caller = Stage(CALLERS[caller.name], caller.environment) if caller else None

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one order and return its answer."""
        if order["order"] == "stop":
            return self._stop()
        if order["order"] == "ask":
            return {"result": getattr(self._contender, order["method"])(**order["arguments"])}
        kind: Kind = order["kind"]
        place = self._place(kind)
        if order["order"] == "offers":
            return {"offers": place is not None}
        if place is None:
            return {"error": f"no {kind} here"}
        return {"timing": asdict(place.load(kind, order["concurrency"], order["seconds"]))}

    def _place(self, kind: Kind) -> ClosedLoop | Stage | None:
        for place in (self._loop, self._caller):
            if place is not None and place.offers(kind):
                return place
        return None

    def _stop(self) -> dict[str, Any]:
        if self._caller is not None:
            self._caller.stop()
        if self._loop is not None:
            self._loop.close()
        self._contender.stop()
        return {}


@contextmanager
def _orders(log: Path) -> Iterator[TextIO]:
    """Keep the pipe to the near side, and redirect the output of servers to *log*."""
    answers = os.fdopen(os.dup(1), "w")
    with log.open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield answers
    finally:
        answers.close()


def _told(error: BaseException) -> str:
    """Return the end of the traceback. For an exception group, use its first member, which tells more."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "".join(traceback.format_exception(error))[-2000:]


def main(factory: str, directory: Path, *arguments: str) -> None:
    """Run the contender `module:Class` with *arguments* until the order to stop, or until the near side has ended."""
    with _orders(directory / "stage.log") as answers:

        def answer(value: dict[str, Any]) -> None:
            print(json.dumps(value), file=answers, flush=True)

        try:
            module, _, name = factory.partition(":")
            contender: Contender = getattr(importlib.import_module(module), name)(*arguments)
            contender.start(directory)
            far = _Far(contender)
        except BaseException as error:
            answer({"error": _told(error)})
            raise
        answer({"url": contender.url})
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer(far.obey(order))
            except Exception as error:
                answer({"error": _told(error)})
            if order["order"] == "stop":
                return
        far.obey({"order": "stop"})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
