"""The files of a kept state: what is written is restored, and what is damaged, foreign or newer is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.specs import BackendSpec, EndpointSpec, Origin, UnfinishedDeployment
from serve_bridge.state.document import FORMAT, UnreadableState, decode, encode
from serve_bridge.state.records import Recorder, StateRecord
from serve_bridge.state.state_files import StateFiles
from serve_bridge.traffic import TrafficPolicy
from serve_bridge.wire.opaque import Opaque
from tests.support.disk import ended_at, files_of_at_most, noted_steps

GOLDEN = Path(__file__).parents[2] / "golden"
State = tuple[dict[str, BackendSpec], dict[str, EndpointSpec], dict[str, UnfinishedDeployment]]


class Odd:
    """A value of a class, which JSON does not have."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and self.text == other.text

    __hash__ = None  # type: ignore[assignment]


def example(text: str = "x") -> State:
    """Return a state with one of everything."""
    origin = Origin("shop", 12.5, "1.0", "f" * 64, ("num_replicas",), ("/srv/shop",))
    backend = BackendSpec(
        name="b",
        code=f"code {text}".encode(),
        is_async=True,
        config=BackendConfig(num_replicas=2, user_config=Opaque({"threshold": 0.5}), exposed_methods=["predict"]),
        actor_options=Opaque({"num_cpus": 1}),
        revision=3,
        origin=origin,
    )
    endpoint = EndpointSpec("e", "/é/{n:int}", ("GET",), TrafficPolicy({"b": 1.0}, {"b": 0.5}), origin, 3.0)
    unfinished = UnfinishedDeployment("shop", 7.0, ("update backend b",), ("x",), frozenset({"backend b"}), "why")
    return {"b": backend}, {"e": endpoint}, {"shop": unfinished}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for one state, which does not exist yet."""
    return tmp_path / "below" / "main"


@pytest.fixture
def files(directory: Path) -> Iterator[StateFiles]:
    """The locked files of one state."""
    files = StateFiles(directory)
    files.lock()
    yield files
    files.close()


def write(files: StateFiles, state: State) -> StateRecord:
    """Write *state*; return its record."""
    record, blobs = Recorder("main").record(*state)
    files.write(record, blobs)
    return record


def restored(directory: Path) -> State | None:
    """Return the state in *directory*, as a new process finds it."""
    found = StateFiles(directory).read()
    return None if found is None else found[0].restored(found[1])


# A state is restored as it was


def test_an_empty_directory_has_no_state(files: StateFiles, directory: Path) -> None:
    """The first start of a name begins empty."""
    assert restored(directory) is None


def test_what_was_written_is_restored(files: StateFiles, directory: Path) -> None:
    """Backends with options and code, endpoints with traffic and shadows, owners, and unfinished deployments."""
    write(files, example())
    found = restored(directory)
    assert found == example()
    assert found is not None
    assert found[0]["b"].config.given == example()[0]["b"].config.given
    assert found[0]["b"].actor_options.open() == {"num_cpus": 1}


NAMES = st.from_regex(r"[a-z][a-z0-9_.:-]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXTS | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = PLAIN | st.builds(Odd, TEXTS)
ORIGINS = st.none() | st.builds(
    Origin, NAMES, FINITE, TEXTS, TEXTS, st.lists(TEXTS, max_size=2).map(tuple), st.lists(TEXTS, max_size=2).map(tuple)
)
OPTIONS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "num_replicas": st.integers(1, 50),
        "max_concurrent_queries": st.none() | st.integers(1, 9),
        "batch_wait_timeout": st.floats(0, 10),
        "user_config": st.none() | VALUES.filter(lambda value: value is not None).map(Opaque),
        "exposed_methods": st.none() | st.just(["predict", "train"]),
    },
)


@st.composite
def states(draw: st.DrawFn) -> State:
    """Draw a state."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    backends = {
        name: BackendSpec(
            name,
            draw(st.binary(max_size=20)),
            draw(st.booleans()),
            BackendConfig(**draw(OPTIONS)),
            Opaque(draw(st.dictionaries(NAMES, VALUES, max_size=2))),
            draw(st.integers(1, 99)),
            draw(ORIGINS),
            draw(st.booleans()),
        )
        for name in names
    }
    endpoints = {}
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        first, second = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        share = draw(st.floats(0, 1))
        weights = {first: 1.0} if first == second else {first: share, second: 1.0 - share}
        policy = TrafficPolicy(weights, draw(st.dictionaries(st.sampled_from(names), st.floats(0, 1), max_size=2)))
        route = draw(st.none() | TEXTS.map(lambda text: f"/{text}"))
        endpoints[name] = EndpointSpec(name, route, ("GET", "POST"), policy, draw(ORIGINS), draw(st.none() | FINITE))
    projects = draw(st.lists(NAMES, max_size=2, unique=True))
    several = st.lists(TEXTS, max_size=2)
    unfinished = {
        project: UnfinishedDeployment(
            project,
            draw(FINITE),
            tuple(draw(several)),
            tuple(draw(several)),
            frozenset(draw(several)),
            draw(TEXTS),
        )
        for project in projects
    }
    return backends, endpoints, unfinished


@given(states())
def test_any_state_survives_its_document(state: State) -> None:
    """Also values that JSON does not have, strings that are not UTF-8, and the order of the endpoints."""
    record, blobs = Recorder("main").record(*state)
    read, _ = decode(encode(record, sealed=True))
    assert read == record
    found = read.restored(blobs.__getitem__)
    assert found == state
    assert list(found[1]) == list(state[1])
    for name, backend in found[0].items():
        assert backend.config.given == state[0][name].config.given
        assert backend.actor_options.open() == state[0][name].actor_options.open()


@given(states())
def test_a_document_with_its_code_needs_no_other_file(state: State) -> None:
    """`export --with-code` writes such a document."""
    record, blobs = Recorder("main").record(*state)
    read, code = decode(encode(record, code=blobs))
    assert read.restored(code.__getitem__) == state


def test_the_document_is_readable(files: StateFiles, directory: Path) -> None:
    """A person finds the options, plain values of user code included, and the version that wrote it."""
    write(files, example())
    document = json.loads((directory / "state.json").read_text())
    assert document["format"] == FORMAT
    assert document["backends"]["b"]["options"] == {"exposed_methods": ["predict"], "num_replicas": 2}
    assert document["backends"]["b"]["user_config"] == {"value": {"threshold": 0.5}}
    assert document["endpoints"]["e"]["traffic"] == {"b": 1.0}


def test_a_plain_value_is_shown_without_importing_anything() -> None:
    """A pickle that names a class stays closed, because the controller must not import user code."""
    record, blobs = Recorder("main").record(
        {"b": dataclasses.replace(example()[0]["b"], actor_options=Opaque({"odd": Odd("x")}))}, {}, {}
    )
    packed = record.backends["b"].ray_actor_options
    assert packed.digest
    assert Opaque({"odd": Odd("x")}).data == blobs[packed.pickled]


def test_format_1_is_read_for_ever() -> None:
    """The bytes in tests/golden were written by the first version with a kept state."""
    record, code = decode((GOLDEN / "state-1.json").read_bytes())
    assert record.restored(code.__getitem__) == example()


def test_the_files_of_format_1_are_restored_for_ever(directory: Path) -> None:
    """The state, the one before it, and the code of both have the names and places of the first version."""
    shutil.copytree(GOLDEN / "state-1", directory)
    assert restored(directory) == example("main")
    os.replace(directory / "previous.json", directory / "state.json")
    assert restored(directory) == example("first")


def test_format_1_is_written_as_it_was() -> None:
    """A change of these bytes needs a new number of the format."""
    record, blobs = Recorder("main").record(*example())
    written, golden = (
        json.loads(encode(record, code=blobs, sealed=True)),
        json.loads((GOLDEN / "state-1.json").read_bytes()),
    )
    for document in (written, golden):
        del document["written_by"], document["checksum"]
    assert written == golden


# Crashes and damage


def test_a_change_keeps_the_state_before(files: StateFiles, directory: Path) -> None:
    """It is the last good one, with its code."""
    write(files, example("first"))
    write(files, example("second"))
    os.replace(directory / "previous.json", directory / "state.json")
    assert restored(directory) == example("first")


def test_old_code_is_removed(files: StateFiles, directory: Path) -> None:
    """Only the code of the state and of the one before stays."""
    for text in ("first", "second", "third"):
        write(files, example(text))
    assert sorted(path.read_bytes() for path in (directory / "code").iterdir()) == [b"code second", b"code third"]


def test_every_truncated_state_is_refused_with_the_way_out(files: StateFiles, directory: Path) -> None:
    """The error names the path, and the state before, which can be used instead."""
    write(files, example("first"))
    write(files, example("second"))
    whole = (directory / "state.json").read_bytes()
    for length in range(len(whole)):
        with pytest.raises(UnreadableState):
            decode(whole[:length])
    (directory / "state.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=rf"{directory}/state.json cannot be used: .*`mv {directory}/previous.json"):
        restored(directory)


@pytest.mark.parametrize("name", ["state.json", "code"])
def test_damage_is_noticed(files: StateFiles, directory: Path, name: str) -> None:
    """A state or code with other bytes is refused, never run."""
    write(files, example())
    path = directory / name
    path = path if path.is_file() else next(path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"b", b"c").replace(b"x", b"y"))
    with pytest.raises(ConfigError, match=rf"{directory}/state.json cannot be used: .*damaged.*--fresh"):
        restored(directory)


def test_a_crash_at_any_step_leaves_one_of_both_states(files: StateFiles, directory: Path) -> None:
    """The state before or after the change, whole; and the next change works."""
    write(files, example("first"))
    step = 0
    while ended_at(step, lambda: write(files, example("second"))):
        assert restored(directory) in (example("first"), example("second"))
        step += 1
        files._current = None  # a new process, which has not read the files
        write(files, example("first"))
        assert restored(directory) == example("first")
    assert step > 10
    assert restored(directory) == example("second")


def test_each_file_is_on_the_disk_before_its_name(
    files: StateFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power between two steps leaves the state before: the code comes first, and the state last."""
    write(files, example("first"))
    steps = noted_steps(monkeypatch)
    record = write(files, example("second"))
    expected = []
    for name, folder in (
        (f"{record.backends['b'].code}.bin", "code"),
        ("previous.json", "main"),
        ("state.json", "main"),
    ):
        expected += [("flush", f".{name}"), ("name", name), ("flush", folder)]
    assert [(each.what, re.sub(r"\.\w{8}\.new$", "", each.name)) for each in steps] == expected


def test_a_missing_state_with_a_state_before_is_refused(files: StateFiles, directory: Path) -> None:
    """An instance that begins empty by mistake would write over the last good state."""
    write(files, example("first"))
    write(files, example("second"))
    (directory / "state.json").unlink()
    with pytest.raises(ConfigError, match=r"state.json cannot be used: it is missing; go back to the state before"):
        restored(directory)


def test_a_later_format_is_refused_with_both_versions(files: StateFiles, directory: Path) -> None:
    """The way out is the version that wrote it."""
    write(files, example())
    document = json.loads((directory / "state.json").read_bytes())
    (directory / "state.json").write_text(json.dumps({**document, "format": 99, "written_by": "7.8.9"}) + "\n")
    with pytest.raises(ConfigError, match=r"it has format 99, written by serve_bridge '7.8.9'.*reads format 1"):
        restored(directory)


def test_an_option_of_a_later_version_is_refused() -> None:
    """Restoring without it would change what users asked for."""
    record, blobs = Recorder("main").record(*example())
    record.backends["b"].options["max_temperature"] = 5
    with pytest.raises(ConfigError, match="no option 'max_temperature'"):
        record.restored(blobs.__getitem__)


# What the machine refuses


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_state_that_cannot_be_written_leaves_the_old_one(files: StateFiles, directory: Path, size: int) -> None:
    """At any point: while the code, the state before, or the state is written."""
    write(files, example("first"))
    with (
        pytest.raises(OSError, match=rf"the state in {directory} cannot be written: .*nothing was changed"),
        files_of_at_most(size),
    ):
        write(files, example("second"))
    assert restored(directory) == example("first")
    assert not list(directory.rglob("*.new"))


def test_a_draft_of_a_killed_process_is_removed(files: StateFiles, directory: Path) -> None:
    """By the next change."""
    write(files, example("first"))
    for draft in (directory / ".state.json.1234abcd.new", directory / "code" / ".x.bin.1234abcd.new"):
        draft.write_bytes(b"half")
    write(files, example("second"))
    assert not list(directory.rglob("*.new"))


def test_a_forgotten_state_is_gone_from_the_disk_too(
    files: StateFiles, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power does not bring it back."""
    write(files, example())
    steps = noted_steps(monkeypatch)
    files.forget()
    assert [(each.what, each.name) for each in steps] == [("flush", "main")]


def test_the_files_are_private(files: StateFiles, directory: Path) -> None:
    """They hold code, and values of user code."""
    write(files, example())
    for path in (directory, *directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_directory_that_others_can_open_is_refused(directory: Path) -> None:
    """Another user could put code there."""
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"{directory} cannot be used: .*chmod 700.*--state.*--no-state"):
        StateFiles(directory).lock()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_of_another_user_is_refused(directory: Path) -> None:
    """It names the directory and the way out."""
    directory.mkdir(parents=True, mode=0o700)
    os.chown(directory, 12345, 12345)
    with pytest.raises(ConfigError, match=rf"{directory} belongs to another user; give another directory"):
        StateFiles(directory).lock()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_state_of_another_user_is_refused(files: StateFiles, directory: Path) -> None:
    """Its code would run as this user."""
    write(files, example())
    os.chown(directory / "state.json", 12345, 12345)
    with pytest.raises(ConfigError, match=r"state.json belongs to another user"):
        restored(directory)


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Here a file is in its place; a read-only disk gives the same error with another reason."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=rf"{tmp_path}/file/main cannot be used: Not a directory"):
        StateFiles(tmp_path / "file" / "main").lock()


def test_one_process_keeps_a_state(files: StateFiles, directory: Path) -> None:
    """The second error names the directory and the process; after the first has ended, the second may."""
    second = StateFiles(directory)
    with pytest.raises(
        ConfigError, match=rf"{directory} is in use by a running instance, in process {os.getpid()}; join"
    ):
        second.lock(wait_s=0.1)
    files.close()
    second.lock()
    second.close()


# Beginning empty, and forgetting


def test_a_fresh_start_keeps_the_old_state_aside(files: StateFiles, directory: Path) -> None:
    """It can be applied from there."""
    write(files, example())
    files.set_aside()
    write(files, ({}, {}, {}))
    assert restored(directory) == ({}, {}, {})
    assert restored(directory / "before-fresh") == example()


def test_a_forgotten_state_leaves_nothing(files: StateFiles, directory: Path) -> None:
    """Not even the directory."""
    write(files, example("first"))
    write(files, example("second"))
    files.set_aside()
    write(files, example("third"))
    files.forget()
    assert not directory.exists()


def test_forgetting_leaves_other_files(files: StateFiles, directory: Path) -> None:
    """The keys of an instance outlive its state."""
    write(files, example())
    (directory / "secret").touch()
    files.forget()
    assert [path.name for path in directory.iterdir()] == ["secret"]


def test_an_unchanged_state_is_not_written_again(files: StateFiles, directory: Path) -> None:
    """A restart must not replace the state before by the same state."""
    write(files, example("first"))
    write(files, example("second"))
    before = (directory / "previous.json").read_bytes()
    write(files, example("second"))
    assert (directory / "previous.json").read_bytes() == before


def test_infinite_values_are_packed() -> None:
    """JSON has no infinity."""
    record, blobs = Recorder("main").record(
        {"b": dataclasses.replace(example()[0]["b"], actor_options=Opaque({"x": math.inf}))}, {}, {}
    )
    assert record.restored(blobs.__getitem__)[0]["b"].actor_options.open() == {"x": math.inf}


def _golden() -> Any:
    """Write the golden file of the current format; only for a new format."""
    record, blobs = Recorder("main").record(*example())
    (GOLDEN / f"state-{FORMAT}.json").write_bytes(encode(record, code=blobs, sealed=True))
