"""The pure parts of the benchmark: bars, report, and the counts of its clients."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.load.stream_load import EventStream, Loader
from benchmarks.reports.bars import BARS, Bar, judge
from benchmarks.reports.report import FIGURES, markdown
from benchmarks.results import Reading, Run, Sample
from benchmarks.rows.points import POINTS

SETTINGS = {
    "date": "2026-01-01",
    "rounds": 3,
    "seconds": 1.0,
    "warm_seconds": 1.0,
    "generator": "wrk",
    "rows": [1, 2, 3],
}
MACHINE = {"cores": 2, "processor": "one", "memory_gib": 4, "system": "Linux", "python": "3.11", "versions": {}}


def sample(contender: str, point: str, rate: float, number: int = 0, p50_ms: float | None = 1.0) -> Sample:
    """Return a sample in which the rate, and perhaps the median, matter."""
    return Sample(number, contender, point, rate, p50_ms, 2.0, 0.1, 0.0, 0)


def run_of(*samples: Sample, readings: tuple[Reading, ...] = ()) -> Run:
    """Return a run with these samples."""
    return Run(MACHINE, SETTINGS, list(samples), list(readings))


def test_median_of_ratios_decides() -> None:
    """A round in which the peer was slow makes no bar cleared: ratios are taken within rounds."""
    ours = [sample(OURS, "http-64", rate, number) for number, rate in enumerate((300, 300, 300))]
    theirs = [sample("bare", "http-64", rate, number) for number, rate in enumerate((100, 600, 400))]
    verdict = judge(run_of(*ours, *theirs), Bar("requests_per_s", "http-64", "bare", "at least", 0.8))
    assert verdict.found is not None
    assert (verdict.found.low, verdict.found.median, verdict.found.high) == (0.5, 0.75, 3.0)
    assert verdict.cleared is False


def test_bar_without_peer_is_absolute() -> None:
    """A bar without a peer judges the figure itself."""
    run = run_of(sample(OURS, "acall-64", 12_000))
    assert judge(run, Bar("requests_per_s", "acall-64", None, "at least", 10_000)).cleared is True


def test_difference_is_added_to_the_peer() -> None:
    """A difference is the judged figure minus the peer's figure."""
    run = run_of(sample(OURS, "http-1", 1, p50_ms=0.5), sample("bare", "http-1", 1, p50_ms=0.25))
    bar = Bar("p50_ms", "http-1", "bare", "at most", 0.25, difference=True)
    assert judge(run, bar).cleared is True


def test_peer_may_stand_under_another_load() -> None:
    """A bar may name another load for the peer's figure."""
    run = run_of(sample(OURS, "acall-64", 100), sample("ray-actor-async", "remote-100", 20))
    bar = Bar("requests_per_s", "acall-64", "ray-actor-async", "at least", 5, peer_point="remote-100")
    assert judge(run, bar).cleared is True


def test_readings_are_judged_like_samples() -> None:
    """A figure outside of any sample is found among the readings."""
    mine, theirs = (Reading(0, name, "memory", "rss_proxy_mib", mib) for name, mib in ((OURS, 60), ("bare", 100)))
    run = run_of(readings=(mine, theirs))
    assert judge(run, Bar("rss_proxy_mib", "memory", "bare", "at most", 0.65)).cleared is True


def test_what_must_not_be_at_all_is_judged_by_the_worst_round() -> None:
    """One failure in one of three rounds is a failure."""
    found = [replace(sample(OURS, "beside-saturated", 500, number), errors=number // 2) for number in range(3)]
    bar = Bar("errors", "beside-saturated", None, "at most", 0)
    assert (judge(run_of(*found), bar).cleared, judge(run_of(*found[:2]), bar).cleared) == (False, True)


def test_what_was_not_measured_is_no_verdict() -> None:
    """Without both figures in one round a bar is neither cleared nor missed."""
    run = run_of(sample(OURS, "http-64", 1, 0), sample("bare", "http-64", 1, 1))
    assert judge(run, Bar("requests_per_s", "http-64", "bare", "at least", 1)).cleared is None


def test_report_shows_samples_and_readings() -> None:
    """Each row has a table of its loads and a table of its other figures. A missing latency is an empty cell."""
    reading = Reading(0, "bare", "memory", "rss_replica_mib", 35.5)
    text = markdown(run_of(sample(OURS, "http-1", 1234, p50_ms=None), readings=(reading,)))
    assert "| 1 connection | serve_bridge | 1,234 |  | 2.00 | 0.1 |  |" in text
    assert f"| what | contender | {FIGURES['rss_replica_mib']} |" in text
    assert "| memory after all of these | bare uvicorn + Starlette | 35.5 |" in text


def test_report_names_what_is_missing() -> None:
    """The report names a failed contender with its reason, and is complete otherwise."""
    run = run_of(sample(OURS, "http-1", 1234))
    run.absent |= {"mosec": "it\nwould not start", f"{OURS}/upload": "broke off"}
    text = markdown(run)
    assert "- Mosec, one worker: the measurement did not finish: would not start" in text
    assert "- serve_bridge at 1 GiB up: the measurement did not finish: broke off" in text


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: f"{bar.contender}-{bar.figure}-{bar.point}-{bar.peer}")
def test_bars_name_what_is_measured(bar: Bar) -> None:
    """The points of every bar exist in the rows, with a kind of its contender."""
    for contender, point in filter(None, (bar.place, bar.other)):
        kind = POINTS[point].kind
        assert kind == "own" or kind in ENTRIES[contender].kinds


@pytest.mark.parametrize("cut", range(1, 24))
def test_events_are_counted_wherever_they_are_cut(cut: int) -> None:
    """Two reads count as many events as one read, even if they split a blank line."""
    data = b"data: tick\n\n" * 2
    loader = Loader("http://host:1/events", EventStream, 1)
    loader.begin()
    stream = EventStream(loader)
    stream.data_received(data[:cut])
    stream.data_received(data[cut:])
    assert loader.counted == 2
