"""The checks of `serve-bridge doctor`: for each, facts with a fault and facts without one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import pytest

from serve_bridge.cli.doctor.clocks import ClockFacts, check_clocks
from serve_bridge.cli.doctor.deadlines import check_deadlines
from serve_bridge.cli.doctor.drains import StopLimit, check_drains, span_s, stop_limit_of
from serve_bridge.cli.doctor.files import FileFacts, check_files
from serve_bridge.cli.doctor.findings import Finding, Severity, error, warning
from serve_bridge.cli.doctor.forks import ForkFacts, check_forks
from serve_bridge.cli.doctor.memory import check_memory
from serve_bridge.cli.doctor.places import PlaceFacts, check_places
from serve_bridge.cli.doctor.ports import PortFacts, check_ports
from serve_bridge.cli.doctor.tokens import check_tokens
from serve_bridge.cli.doctor.versions import FIXED, LOWEST, check_versions
from serve_bridge.instance.process_facts import EngineFacts, ProcessFacts
from tests.support.programs import ROOT

GOOD = {"serve-bridge": "0.2", "ray": "2.60.0", "uvicorn": "0.54.0", "websockets": "17.1", "Django": "5.2.13"}
HERE = ProcessFacts(python="3.11.7", versions=GOOD)
ENGINE = EngineFacts(python="3.11.9", versions=GOOD, host="gpu-1", token_mode="token", memory_bytes=100 << 30)


def engine(**changed: object) -> EngineFacts:
    """Return the facts of a good engine with changes."""
    return EngineFacts(**{**vars(ENGINE), **changed})  # type: ignore[arg-type]


def place(path: str = "/srv/state", **changed: object) -> PlaceFacts:
    """Return the facts about a good directory with changes."""
    facts = {"holds": "the state", "is_lasting": True, "filesystem": "ext4", "lingers": True, "is_cleaned": True}
    return PlaceFacts(path, **{**facts, **changed})  # type: ignore[arg-type]


TIMES = {"quick": 20.0, "slow": 40.0, "open": None}
DRAINS = {"backend 'b'": 20.0}
BAD: dict[str, tuple[Iterable[Finding], Severity, str]] = {
    "another python": (
        check_versions(ProcessFacts(python="3.12.1"), ENGINE),
        Severity.ERROR,
        "this process has Python 3.12.1, the engine has 3.11.9",
    ),
    "another serve_bridge": (
        check_versions(ProcessFacts(python="3.11.1", versions={"serve-bridge": "0.1"}), ENGINE),
        Severity.WARNING,
        "this process has serve_bridge 0.1, the engine has 0.2",
    ),
    "another ray": (
        check_versions(ProcessFacts(python="3.11.1", versions={"ray": "2.61.0"}), ENGINE),
        Severity.WARNING,
        "this process has ray 2.61.0, the engine has 2.60.0",
    ),
    "an old starlette": (
        check_versions(ProcessFacts(python="3.11.1", versions={"starlette": "1.2"}), None),
        Severity.ERROR,
        "older versions read forms without limits",
    ),
    "an old ray on the engine": (
        check_versions(ProcessFacts(python="3.11.1"), engine(versions={"ray": "2.9.3"})),
        Severity.ERROR,
        "the engine has ray 2.9.3",
    ),
    "a test client with a fault": (
        check_versions(ProcessFacts(python="3.11.1", versions={"Django": "5.2.12"}), ENGINE),
        Severity.WARNING,
        "this process has Django 5.2.12: its test client AsyncClient",
    ),
    "the same fault on both sides": (
        check_versions(*[engine(versions={"starlette": "1.3.1"})] * 2),
        Severity.WARNING,
        "this process and the engine have starlette 1.3.1: its test client warns",
    ),
    "an untested uvicorn": (
        check_versions(HERE, engine(versions={"uvicorn": "0.55.0"})),
        Severity.WARNING,
        "with which a proxy does not start",
    ),
    "a clock behind": (check_clocks(ClockFacts(100, 101, 90)), Severity.WARNING, "10.0 s behind the clock"),
    "a clock ahead": (check_clocks(ClockFacts(100, 101, 111)), Severity.WARNING, "10.0 s ahead of the clock"),
    "a closed port": (
        check_ports([PortFacts("the controller", "10.0.0.5:7000", "Connection refused")]),
        Severity.ERROR,
        "the controller at 10.0.0.5:7000 cannot be reached from here: Connection refused",
    ),
    "closed ports of the same kind": (
        check_ports([PortFacts("a replica of backend 'b'", f"10.0.0.5:{port}", "timed out") for port in (7001, 7002)]),
        Severity.ERROR,
        "a replica of backend 'b' at 10.0.0.5:7001, 10.0.0.5:7002 cannot be reached from here: timed out",
    ),
    "a key that others read": (
        check_files([FileFacts("/k/x.key", False, 0o640, 7)], 7),
        Severity.ERROR,
        "/k/x.key has mode 640",
    ),
    "a directory that others open": (
        check_files([FileFacts("/k", True, 0o755, 7)], 7),
        Severity.ERROR,
        "/k has mode 755",
    ),
    "a key of another user": (
        check_files([FileFacts("/k/x.key", False, 0o600, 8)], 7),
        Severity.ERROR,
        "belongs to the user 8",
    ),
    "a link": (check_files([FileFacts("/k/x.key", False, 0o777, 7, True)], 7), Severity.ERROR, "symbolic link"),
    "a state in memory": (check_places([place(filesystem="tmpfs")]), Severity.ERROR, "lost when the machine restarts"),
    "a user who does not linger": (
        check_places([place("/run/user/7/serve_bridge", is_lasting=False, lingers=False)]),
        Severity.WARNING,
        "logind deletes it after the last logout",
    ),
    "sockets in /tmp": (
        check_places([place("/tmp/serve_bridge-7", is_lasting=False)]),
        Severity.WARNING,
        "systemd-tmpfiles deletes old files",
    ),
    "a state in /var/tmp": (check_places([place("/var/tmp/s")]), Severity.WARNING, "systemd-tmpfiles deletes"),
    "Ray without token": (
        check_tokens(engine(token_mode="disabled"), has_token=False, shares_machine=True),
        Severity.WARNING,
        "Ray does not ask for a token",
    ),
    "a web host with Ray's token": (
        check_tokens(ENGINE, has_token=True, shares_machine=False),
        Severity.WARNING,
        "this process has the token of the Ray cluster",
    ),
    "a slow endpoint": (
        check_deadlines(TIMES, 30),
        Severity.WARNING,
        "'slow' may take 40 s, and gunicorn kills a sync worker after 30 s",
    ),
    "a short stop": (
        check_drains(DRAINS, [StopLimit("TimeoutStopSec of web", 24)]),
        Severity.WARNING,
        "may take 20 s to finish its work, and TimeoutStopSec of web ends it after 24 s",
    ),
    "gevent": (check_forks(ForkFacts(worker_class="gevent")), Severity.ERROR, "gevent replaces the sockets"),
    "patched sockets": (check_forks(ForkFacts(patched_by="eventlet")), Severity.ERROR, "eventlet replaces"),
    "threads before the fork": (
        check_forks(ForkFacts(app="shop", threads=("timer",), preloads=True)),
        Severity.WARNING,
        "starts threads (timer), and with --preload",
    ),
    "Ray before the fork": (check_forks(ForkFacts(app="shop", has_ray=True)), Severity.ERROR, "connects to Ray"),
    "an app that does not load": (
        check_forks(ForkFacts(app="shop", failure="KeyError: 'x'")),
        Severity.ERROR,
        "the import of shop fails: KeyError: 'x'",
    ),
    "full memory": (check_memory(engine(replicas_bytes=95 << 30)), Severity.ERROR, "95.0 of 100.0 GiB"),
    "no room for an update": (check_memory(engine(replicas_bytes=60 << 30)), Severity.WARNING, "both may not fit"),
}

FINE: dict[str, Iterable[Finding]] = {
    "versions": check_versions(HERE, ENGINE),
    "versions without an engine": check_versions(HERE, None),
    "a web host without Ray": check_versions(ProcessFacts(python="3.11.1", versions={"serve-bridge": "0.2"}), ENGINE),
    "clocks, as far as the answer shows": check_clocks(ClockFacts(100, 104, 105)),
    "ports": check_ports([PortFacts("the controller", "10.0.0.5:7000", None)]),
    "files": check_files([FileFacts("/k/x.key", False, 0o600, 7), FileFacts("/k", True, 0o700, 7)], 7),
    "places": check_places(
        [
            place(),
            place("/run/user/7/x", is_lasting=False, filesystem="tmpfs"),
            place("/tmp/x", is_cleaned=False),
            place("/tmpfiles"),
        ]
    ),
    "a token": check_tokens(ENGINE, has_token=True, shares_machine=True),
    "no Ray": check_tokens(engine(token_mode=""), has_token=True, shares_machine=False),
    "deadlines": check_deadlines(TIMES, 41),
    "deadlines without a limit": check_deadlines(TIMES, math.inf),
    "drains": check_drains(DRAINS, [StopLimit("a", 25), StopLimit("b", math.inf)]),
    "forks": check_forks(ForkFacts(app="shop", worker_class="gthread", preloads=True)),
    "memory": check_memory(engine(replicas_bytes=50 << 30)),
    "unknown memory": check_memory(engine(replicas_bytes=95 << 30, memory_bytes=None)),
}


@pytest.mark.parametrize("case", BAD)
def test_a_fault_is_one_finding_with_a_remedy(case: str) -> None:
    """The finding names the values that show the fault."""
    findings, severity, text = BAD[case]
    (finding,) = findings
    assert finding.severity is severity
    assert text in finding.text
    assert finding.remedy


@pytest.mark.parametrize("case", FINE)
def test_facts_without_a_fault_are_no_finding(case: str) -> None:
    """A warning without a fault would train its readers to ignore warnings."""
    assert list(FINE[case]) == []


def test_a_finding_has_its_severity() -> None:
    """By the function that makes it."""
    assert [warning("c", "t", "r").severity, error("c", "t", "r").severity] == [Severity.WARNING, Severity.ERROR]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1min 30s", 90),
        ("1h", 3600),
        ("2min", 120),
        ("500ms", 0.5),
        ("1w 2d", 777_600),
        ("1M", 2_629_800),
        ("1month", 2_629_800),
        ("infinity", math.inf),
        ("0", math.inf),
    ],
)
def test_a_time_span_of_systemd_is_read(text: str, seconds: float) -> None:
    """In units and sums of units."""
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 apples", "-5"])
def test_another_text_is_no_time_span(text: str) -> None:
    """The error shows the text."""
    with pytest.raises(ValueError, match="is not a time span"):
        span_s(text)


@pytest.mark.parametrize(
    ("unit", "seconds"),
    [
        ("[Service]\nTimeoutStopSec=2min\n", 120),
        ("[Service]\nTimeoutSec = 15\n", 15),
        ("[Service]\nExecStart=/bin/true\n", 90),
        ("[Service]\n# TimeoutStopSec=5\n", 90),
    ],
)
def test_a_unit_says_how_long_it_may_take_to_stop(unit: str, seconds: float) -> None:
    """Without a line, systemd's default counts."""
    assert stop_limit_of(unit, "web.service") == StopLimit("TimeoutStopSec of web.service", seconds)


def test_the_lowest_versions_are_those_of_the_page() -> None:
    """Users read them in docs/versions.md."""
    page = (ROOT / "docs" / "versions.md").read_text().partition("## Tested versions")[0].lower()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for package, (lowest, _) in LOWEST.items():
        (row,) = [row for row in rows if row.startswith(f"| {package.lower()} |")]
        assert f"from {lowest}" in row


def test_the_known_faults_are_those_of_the_page() -> None:
    """Each with the first version that does not have it."""
    faults = (ROOT / "docs" / "versions.md").read_text().partition("## Known faults")[2]
    listed = re.findall(r"^- \*\*(\w+) before ([\d.]+)\*\*", faults, re.MULTILINE)
    assert {name.lower(): version for name, version in listed} == {
        name.lower(): version for name, (version, _, _) in FIXED.items()
    }
