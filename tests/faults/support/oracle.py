"""The oracle of the fault tests: what was asked, what ran, and the invariants that must hold between the two.

Rule 1: backends write `start` and `end` of each request, each in one write, to one file opened with O_APPEND;
        callers write how each request went to another. Neither knows of the other.
Rule 2: an invariant is a function of the two logs that returns what breaks it; none knows what the fault was.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

Kind = Literal["idempotent", "other"]

RETRY_LIMIT: Final = 1
MOST_ATTEMPTS: Final = 1.2
"""Attempts a request, on average over a run."""
SPARE_ATTEMPTS: Final = 3
"""The retry budget's reserve, which short runs may use up."""
LATE_S: Final = 0.05
"""What a clock reading in the caller and one in the replica may lie apart for no fault of anybody's."""


class Journal:
    """The replica's log: a line as a request's code begins, another as it ends."""

    def __init__(self, path: str, version: str = "") -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._version = version

    def start(self, id: str) -> None:
        """Note that user code runs for request *id*."""
        self._write("start", id)

    def end(self, id: str) -> None:
        """Note that it has run to its end."""
        self._write("end", id)

    def note(self, event: str, id: str = "") -> None:
        """Note anything else that a test counts."""
        self._write(event, id)

    def _write(self, event: str, id: str) -> None:
        line = f"{event} {id or '-'} {self._version or '-'} {os.getpid()} {time.monotonic():.6f}\n"
        os.write(self._file, line.encode())


@dataclass(frozen=True)
class Event:
    """A line of the replicas' log; *at* is the machine's monotonic clock, which all its processes share."""

    event: str
    id: str
    version: str
    pid: int
    at: float


@dataclass(frozen=True)
class Outcome:
    """How one request went, as its caller saw it.

    Attributes:
        id, kind: The request, and whether running it twice does no harm.
        intended, sent, done: When it should have been sent, was sent, and was over; monotonic seconds.
        deadline: When its time was up.
        status: The HTTP status, or a typed error's; 200 for a result; 0: the connection broke.
        executed: The proof that came with a failure: "no", "unknown" or "" for none.
        error: The type of what a Python caller got raised.
        echoed, digest: The id that came back, and the digest of the payload as the backend saw it.
        version: Which version of the backend answered.
    """

    id: str
    kind: Kind
    intended: float
    sent: float
    done: float
    deadline: float
    status: int
    executed: str = ""
    error: str = ""
    echoed: str = ""
    digest: str = ""
    version: str = ""
    replica: str = ""

    @property
    def ok(self) -> bool:
        """Whether the backend answered."""
        return 200 <= self.status < 300


def payload_of(id: str) -> bytes:
    """Return what request *id* carries."""
    return f"payload of {id} ".encode() * 3


def digest_of(payload: bytes) -> str:
    """Return the digest by which a payload is known again."""
    return hashlib.sha256(payload).hexdigest()[:16]


def events_in(path: Path) -> list[Event]:
    """Return the replicas' log."""
    events = []
    for line in _lines(path):
        event, id, version, pid, at = line.split(" ")
        events.append(Event(event, id, version, int(pid), float(at)))
    return events


def outcomes_in(path: Path) -> list[Outcome]:
    """Return the callers' log."""
    return [Outcome(**json.loads(line)) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()  # a reader may see half of the last write


def line_of(outcome: Outcome) -> bytes:
    """Return *outcome* as a line of the callers' log."""
    return json.dumps(asdict(outcome)).encode() + b"\n"


@dataclass(frozen=True)
class Run:
    """Both logs of a run that is over, and what was sent in it."""

    events: Sequence[Event]
    outcomes: Sequence[Outcome]
    sent: Sequence[str]

    @classmethod
    def read(cls, journal: Path, *logs: Path) -> Run:
        """Read the logs; what was sent is what the callers say they have sent."""
        outcomes = [outcome for log in logs for outcome in outcomes_in(log)]
        sent = [id for log in logs for id in log.with_suffix(".sent").read_text().split()]
        return cls(events_in(journal), outcomes, sent)

    def starts(self) -> Counter[str]:
        """Return how often each request's code began."""
        return Counter(event.id for event in self.events if event.event == "start")

    def ends(self) -> Counter[str]:
        """Return how often each request's code came to its end."""
        return Counter(event.id for event in self.events if event.event == "end")

    def failed(self) -> list[Outcome]:
        """Return the outcomes that are no answer of the backend."""
        return [outcome for outcome in self.outcomes if not outcome.ok]


def one_outcome(run: Run) -> Iterator[str]:
    """I1: exactly one final outcome per request."""
    counted = Counter(outcome.id for outcome in run.outcomes)
    for id in run.sent:
        if counted[id] != 1:
            yield f"{id} has {counted[id]} outcomes"
    for id in counted.keys() - set(run.sent):
        yield f"{id} has an outcome and was never sent"


def own_answer(run: Run) -> Iterator[str]:
    """I2: the echoed id and the payload's digest are those that were sent."""
    for outcome in run.outcomes:
        if outcome.ok and (outcome.echoed, outcome.digest) != (outcome.id, digest_of(payload_of(outcome.id))):
            yield f"{outcome.id} got the answer to {outcome.echoed!r} with digest {outcome.digest!r}"


def answered_ran(run: Run) -> Iterator[str]:
    """I3: who got a 2xx has at least one start and one end."""
    starts, ends = run.starts(), run.ends()
    for outcome in run.outcomes:
        if outcome.ok and not (starts[outcome.id] and ends[outcome.id]):
            yield f"{outcome.id} was answered with {starts[outcome.id]} starts and {ends[outcome.id]} ends"


def never_twice(run: Run) -> Iterator[str]:
    """I4: what is not idempotent starts once at most."""
    starts = run.starts()
    for outcome in run.outcomes:
        if outcome.kind == "other" and starts[outcome.id] > 1:
            yield f"{outcome.id} is not idempotent and started {starts[outcome.id]} times"


def not_executed(run: Run) -> Iterator[str]:
    """I5: who was told that nothing was executed has no start."""
    starts = run.starts()
    for outcome in run.outcomes:
        if outcome.executed == "no" and starts[outcome.id]:
            yield f"{outcome.id} was not executed, says its caller, and started {starts[outcome.id]} times"


def few_attempts(run: Run) -> Iterator[str]:
    """I6: nobody is tried more often than the retry limit allows, and few are tried again at all."""
    starts = run.starts()
    for id in run.sent:
        if starts[id] > 1 + RETRY_LIMIT:
            yield f"{id} started {starts[id]} times"
    total = sum(starts[id] for id in run.sent)
    if total > MOST_ATTEMPTS * len(run.sent) + SPARE_ATTEMPTS:
        yield f"{total} starts of {len(run.sent)} requests"


def in_time(run: Run) -> Iterator[str]:
    """I9: nothing starts after its deadline."""
    deadlines = {outcome.id: outcome.deadline for outcome in run.outcomes}
    for event in run.events:
        if event.event == "start" and event.at > deadlines.get(event.id, event.at) + LATE_S:
            yield f"{event.id} started {event.at - deadlines[event.id]:.3f} s after its deadline"


def old_version_gone(run: Run, updated: Mapping[str, float]) -> Iterator[str]:
    """I7: who was sent after an update returned is not answered by the version that it replaced.

    *updated* has, for each version that was replaced, when the update returned.
    """
    for outcome in run.outcomes:
        if outcome.ok and outcome.sent > updated.get(outcome.version, float("inf")):
            yield f"{outcome.id} was answered by {outcome.version}, which had been replaced"


INVARIANTS: Final[tuple[Callable[[Run], Iterator[str]], ...]] = (
    one_outcome,
    own_answer,
    answered_ran,
    never_twice,
    not_executed,
    few_attempts,
    in_time,
)
"""Those that hold in every run; `old_version_gone` needs to know of updates."""


def violations(run: Run, updated: Mapping[str, float] | None = None) -> dict[str, list[str]]:
    """Return what is wrong with *run*, by the invariant's name; nothing is well."""
    found: dict[str, list[str]] = defaultdict(list)
    for invariant in INVARIANTS:
        found[invariant.__name__] += invariant(run)
    found[old_version_gone.__name__] += old_version_gone(run, updated or {})
    return {name: wrong[:5] for name, wrong in found.items() if wrong}


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return how many outcomes there were of each sort, for a failed test's message."""
    return dict(Counter(f"{o.kind} {o.status} {o.error} {o.executed}".strip() for o in outcomes))
