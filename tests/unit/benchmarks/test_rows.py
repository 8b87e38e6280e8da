"""The parts of the benchmark without any process."""

import re
from pathlib import Path

import pytest

from benchmarks import quick
from benchmarks.contenders.entries import ENTRIES, OURS
from benchmarks.load.calls import Timing
from benchmarks.reports.plots import draw
from benchmarks.results import Run, Sample
from benchmarks.rows.points import MEASURES, POINTS, ROWS
from benchmarks.rows.scale import together
from benchmarks.trial import Trial
from tests.support.programs import ROOT


def trial(run: Run, number: int = 0) -> Trial:
    """Return a round of *run* in which one point of two contenders is wanted."""
    places = {(name, "first-answer") for name in (OURS, "ray-serve")}
    return Trial(run, number, 1.0, 1.0, places, lambda text: None)


def test_a_look_has_a_point_of_every_row():
    """The quick benchmark has at least one figure for each row."""
    assert all(any(point.name in quick.POINTS for point in row.points) for row in ROWS.values())


def test_a_look_names_points_and_contenders_that_exist():
    """The plan drops an unknown name without an error."""
    assert POINTS.keys() >= quick.POINTS
    assert ENTRIES.keys() >= quick.CONTENDERS


def test_a_look_measures_who_a_bar_compares():
    """A quick run measures a peer at a point only if a bar compares them there."""
    names = ("bare", "ray-serve", "ray-serve-haproxy", "ray-actor-async")
    assert [quick.looks_at((name, "call-1")) for name in (OURS, *names)] == [True, False, True, False, True]
    assert all(quick.looks_at((name, "work-1")) for name in (OURS, "bare", "direct"))


def test_every_point_is_measured_by_somebody():
    """A point needs a contender of its kind, or a function for its row."""
    kinds = {kind for entry in ENTRIES.values() for kind in entry.kinds}
    lonely = {point.name for key, row in ROWS.items() for point in row.points if point.kind not in kinds}
    assert lonely == {point.name for key in MEASURES for point in ROWS[key].points if point.kind == "own"}


def test_loads_that_ran_at_once_count_together():
    """Several processes answer for the sum of their requests, and for the slowest of their tails."""
    found = together([Timing(100, 2.0, 1.0, 3.0), Timing(300, 2.0, 2.0, 9.0, errors=1), Timing(200, 2.0, 4.0, 5.0)])
    assert found == Timing(600, 2.0, 2.0, 9.0, errors=1)


def test_the_order_turns_round_in_each_round():
    """A drift of the machine favours no contender."""
    assert trial(Run({}, {}), 0).ordered("ab") == ["a", "b"]
    assert trial(Run({}, {}), 1).ordered("ab") == ["b", "a"]


def test_what_failed_is_noted_and_not_tried_again():
    """After a failed start of one contender, the run measures the other contenders, and does not try this one again."""
    run = Run({}, {})
    with trial(run).attempt("first-answer", "ray-serve"):
        raise OSError("no such program")
    assert run.absent == {"ray-serve/first-answer": "no such program"}
    assert not trial(run, 1).wants("first-answer", "ray-serve")
    assert trial(run, 1).wants("first-answer")


def test_only_what_is_asked_for_is_wanted():
    """The points and contenders of the command line also apply to rows with code of their own."""
    assert not trial(Run({}, {})).wants("one-replica-more")
    assert not trial(Run({}, {})).wants("first-answer", "bare")


@pytest.mark.slow
def test_plots_are_drawn_of_what_was_measured(tmp_path: Path):
    """A run of a few rows gives the plots of these rows, as PNG files."""
    samples = [Sample(number, OURS, "http-64", 10_000 + number, 3.0, 9.0, 0.07, 0.0, 0) for number in range(2)]
    drawn = draw(Run({}, {}, samples), tmp_path)
    assert [path.name for path in drawn] == ["throughput.png", "latency.png", "cpu.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_every_module_named_in_text_exists() -> None:
    """Stages, load generators and servers are processes, so their modules stand in strings. No import checks these."""
    pages = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"\bbenchmarks(?:\.[a-z_]+)+", page.read_text())}
    modules = {name for name in named if not name.endswith(".md")}
    assert "benchmarks.contenders.stage" in modules
    assert [name for name in sorted(modules) if not exists(name)] == []


def exists(name: str) -> bool:
    """Return whether *name* is a module or a folder of modules."""
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()
