"""An exported state, applied to the same instance or to another one."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.cli import verbs
from serve_bridge.config.backend_config import BACKEND_DEFAULTS
from tests.behaviour.support import backends

Start = Callable[..., serve.Client]


def fill(client: serve.Client) -> None:
    """Make two backends, one of a deployment, and two endpoints with a split and a shadow."""

    @serve.backend("one", endpoint="e", route="/e")
    def one(request: Any) -> str:
        return "one"

    client.deploy(one, project="shop")
    client.create_backend("two", backends.Counter, config={"num_replicas": 2, "user_config": None})
    client.create_backend("configured", backends.Configured, config={"user_config": {"key": (1, 2)}})
    client.create_endpoint("f", backend="two", route="/f", methods=["POST"], timeout_s=9)
    client.set_traffic("e", {"one": 0.75, "two": 0.25})
    client.shadow_traffic("e", "two", 0.5)


def wanted(client: serve.Client) -> Any:
    """Return the exported state, without the facts of one instance. An option may be given with its default."""
    document = verbs.export(client).data
    for backend in document["backends"].values():
        del backend["revision"]
        backend["options"] = BACKEND_DEFAULTS | backend["options"]
    return document["backends"], list(document["endpoints"].items())


@pytest.fixture
def source(start: Start, tmp_path: Path) -> tuple[serve.Client, Path]:
    """A filled instance, and its exported state with the code."""
    client = start()
    fill(client)
    path = tmp_path / "state.json"
    path.write_text(verbs.export(client, with_code=True).text + "\n")
    return client, path


def test_another_instance_becomes_the_same(start: Start, source: tuple[serve.Client, Path]) -> None:
    """Also its code, and a second application changes nothing."""
    first, path = source
    second = start()
    verbs.apply(second, str(path))
    assert wanted(second) == wanted(first)
    assert second.get_handle("e").call() is not None
    assert verbs.apply(second, str(path)).data["changes"] == []
    assert second.status()["deployments"] == []


def test_an_instance_goes_back(source: tuple[serve.Client, Path]) -> None:
    """To its options, code, traffic and order of routes; what is not in the state is deleted."""
    client, path = source
    before = wanted(client)
    client.set_traffic("e", {"two": 1.0})
    client.shadow_traffic("e", "two", 0)
    client.update_backend("two", backends.version_2)
    client.update_backend_config("configured", {"user_config": {"key": 3}, "max_queued_queries": 5})
    client.create_backend("more", backends.version_1)
    client.create_endpoint("more", backend="more")
    client.delete_endpoint("f")
    client.create_endpoint("f", backend="two", route="/elsewhere")
    dry = verbs.apply(client, str(path), dry_run=True)
    assert wanted(client) != before
    done = verbs.apply(client, str(path))
    assert done.data["changes"] == dry.data["changes"]
    assert wanted(client) == before
    kinds = [(change["kind"], change["name"]) for change in done.data["changes"]]
    assert ("delete backend", "more") in kinds
    assert ("update backend", "two") in kinds


def test_code_of_the_running_instance_is_used(source: tuple[serve.Client, Path], tmp_path: Path) -> None:
    """An edited export needs no code for what has not changed."""
    client, _ = source
    document = verbs.export(client).data
    assert "code" not in document
    document["backends"]["two"]["options"]["num_replicas"] = 1
    (tmp_path / "edited.json").write_text(json.dumps(document) + "\n")
    done = verbs.apply(client, str(tmp_path / "edited.json"))
    assert [change["reason"] for change in done.data["changes"]] == ["num_replicas: 2 -> 1"]


def test_missing_code_is_named_before_anything_changes(start: Start, source: tuple[serve.Client, Path]) -> None:
    """With the way out."""
    first, path = source
    path.write_text(verbs.export(first).text + "\n")
    second = start()
    with pytest.raises(serve.ConfigError, match=rf"{path} cannot be applied: code .* --with-code"):
        verbs.apply(second, str(path))
    assert wanted(second) == ({}, [])


def test_a_kept_state_can_be_applied(start: Start, tmp_path: Path) -> None:
    """Its code is in the folder beside it."""
    first = start(name="kept-and-applied", state=tmp_path)
    fill(first)
    before = wanted(first)
    first.shutdown(forget=False)
    second = start()
    verbs.apply(second, str(tmp_path / "kept-and-applied" / "state.json"))
    assert wanted(second) == before


def test_a_refused_deletion_changes_nothing(source: tuple[serve.Client, Path]) -> None:
    """Without a terminal, --yes is needed."""
    client, path = source
    client.create_backend("more", backends.version_1)
    client.set_traffic("e", {"two": 1.0})
    before = wanted(client)
    confirm = verbs.confirmation(False, lambda text: True, what="apply")
    with pytest.raises(serve.ConfigError, match=r"apply needs --yes where there is no terminal.*delete backend more"):
        verbs.apply(client, str(path), confirm=confirm)
    assert wanted(client) == before


def test_a_failed_change_says_how_far_it_came(start: Start, source: tuple[serve.Client, Path], tmp_path: Path) -> None:
    """The changes before stay; `status` shows the rest."""
    client = start()
    gate = tmp_path / "gate"
    gate.touch()
    client.create_backend("a", backends.version_1)
    client.create_backend("b", backends.NeedsFile, str(gate))
    path = tmp_path / "other.json"
    path.write_text(verbs.export(client, with_code=True).text + "\n")
    gate.unlink()
    second = start()
    with pytest.raises(serve.DeploymentError, match="stopped at: create backend b; done before: create backend a"):
        verbs.apply(second, str(path))
    assert list(second.list_backends()) == ["a"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "incomplete"), ("{}\n", "no format"), ('{"format": 2, "written_by": "9"}\n', "format 2"), ("[1]\n", "not a")],
)
def test_a_file_that_is_not_a_state_is_refused(client: serve.Client, tmp_path: Path, text: str, reason: str) -> None:
    """With its path and the reason."""
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(serve.ConfigError, match=rf"{path} cannot be applied: .*{reason}"):
        verbs.apply(client, str(path))


def test_a_name_that_occurs_twice_is_refused(source: tuple[serve.Client, Path], tmp_path: Path) -> None:
    """JSON would keep the last value only, and all that the first one holds would be deleted."""
    client, path = source
    before = wanted(client)
    document = json.loads(path.read_bytes())
    document.pop("checksum", None)
    faulty = tmp_path / "faulty.json"
    faulty.write_text(json.dumps(document).replace('"endpoints": {', '"endpoints": {}, "endpoints": {', 1) + "\n")
    with pytest.raises(serve.ConfigError, match=f"{faulty} cannot be applied: .*'endpoints' occurs twice"):
        verbs.apply(client, str(faulty))
    document["backends"]["two"]["user_config"] = {"value": math.nan}
    faulty.write_text(json.dumps(document) + "\n")
    with pytest.raises(serve.ConfigError, match=f"{faulty} cannot be applied: .*NaN is not a number of JSON"):
        verbs.apply(client, str(faulty))
    assert wanted(client) == before


def test_bad_code_and_bad_values_are_refused_before_any_change(
    source: tuple[serve.Client, Path], tmp_path: Path
) -> None:
    """One clear line with the path, also where the fault comes behind changes that could be made."""
    client, path = source
    before = wanted(client)
    other = b"no code"
    for part, message in (("code", "backend 'two': its code is not code of a backend"), ("route", "must start with")):
        document = json.loads(path.read_bytes())
        document.pop("checksum", None)
        document["backends"]["configured"]["options"]["max_queued_queries"] = 7
        if part == "code":
            digest = hashlib.sha256(other).hexdigest()
            document["code"][digest] = base64.b64encode(other).decode()
            document["backends"]["two"]["code"] = digest
        else:
            document["endpoints"]["e"]["route"] = "e"
        faulty = tmp_path / "faulty.json"
        faulty.write_text(json.dumps(document) + "\n")
        with pytest.raises(serve.ConfigError) as refused:
            verbs.apply(client, str(faulty))
        assert str(refused.value).startswith(f"{faulty} cannot be applied: ")
        assert message in str(refused.value)
        assert wanted(client) == before


def test_two_applications_at_once_follow_each_other(source: tuple[serve.Client, Path], tmp_path: Path) -> None:
    """Each is complete, and the instance has the state of the later one."""
    client, path = source
    document = json.loads(path.read_bytes())
    document.pop("checksum", None)
    files = []
    for number in (3, 4):
        document["backends"]["two"]["options"]["max_queued_queries"] = number
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(document) + "\n")
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda file: verbs.apply(client, str(file)).data["changes"], files))
    assert [len(changes) for changes in done] == [1, 1]
    assert client.list_backends()["two"].max_queued_queries in (3, 4)


def test_a_state_may_come_from_a_pipe(source: tuple[serve.Client, Path]) -> None:
    """Such as `apply <(ssh host serve-bridge export --with-code)`, whose writer may be slow."""
    client, path = source
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as thread, os.fdopen(reader), os.fdopen(writer, "wb") as file:
        applied = thread.submit(verbs.apply, client, f"/proc/self/fd/{reader}")
        file.write(path.read_bytes())
        file.close()
        assert applied.result(30).data["changes"] == []


def test_what_has_no_end_is_not_read(client: serve.Client, tmp_path: Path) -> None:
    """A FIFO without a writer, and a device."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(serve.ConfigError, match="fifo cannot be applied: it is incomplete"):
        verbs.apply(client, str(tmp_path / "fifo"))
    with pytest.raises(serve.ConfigError, match=r"^/dev/zero cannot be read: it is neither a file nor a pipe"):
        verbs.apply(client, "/dev/zero")


def test_a_file_that_cannot_be_read_is_named(client: serve.Client, tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(serve.ConfigError, match=f"^{tmp_path} cannot be read: Is a directory$"):
        verbs.apply(client, str(tmp_path))
