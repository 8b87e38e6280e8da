"""New keys for a running instance: old ones stay valid until they are retired, and no request is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import serve_bridge as serve
from serve_bridge.client.client import find_client, link_of
from serve_bridge.client.key_changes import retire_keys, rotate_keys
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE, kept_key, read_key_file, read_secrets, write_secrets
from serve_bridge.wire.dialling import dial
from serve_bridge.wire.keys import Key, Role
from tests.support.listening_engine import port_of
from tests.support.programs import run_program, start_program
from tests.support.waiting import wait_until

NAME = "rotated"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The directory of the key files."""
    return tmp_path


@pytest.fixture
def client(keys: Path) -> Iterator[serve.Client]:
    """A client with all roles of an instance with a proxy, whose backend calls another one."""
    client = serve.start(
        runtime="local", name=NAME, listen="127.0.0.1:0", key_file=str(keys / "secret"), http_options={"port": 0}
    )
    client.create_backend("inner", lambda request: "inner")
    client.create_endpoint("inner", backend="inner")
    handle = client.get_handle("inner")
    client.create_backend("outer", lambda request: handle.call())
    client.create_endpoint("outer", backend="outer", route="/outer")
    yield client
    client.shutdown()


def contents(directory: Path) -> dict[str, bytes]:
    """Return the content of the files in *directory*, and below it."""
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def address(client: serve.Client) -> str:
    """Return the address of *client* over TCP."""
    return f"serve-bridge://127.0.0.1:{port_of(client)}/{NAME}"


WORKER = """
    import asyncio
    import os
    import sys
    import serve_bridge as serve

    client = serve.connect(sys.argv[1], name=sys.argv[2])
    handle = client.get_handle("outer", missing_ok=True)
    while not os.path.exists(sys.argv[3]):
        assert (handle.call(), asyncio.run(handle.acall())) == ("inner", "inner")
        with open(sys.argv[4], "a") as file:
            file.write(".")
    print("served")
"""


def test_no_request_is_lost_while_keys_are_replaced(
    client: serve.Client, keys: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither over HTTP, nor of web workers whose files were replaced, nor of user code that calls a backend."""
    environment = {KEY_FILE_VARIABLE: str(keys / f"{NAME}.call.key")}
    stop = tmp_path / "stop"
    counts = [tmp_path / "far", tmp_path / "near"]
    workers = [
        start_program(WORKER, where, NAME, str(stop), str(count), environment=environment)
        for where, count in zip((address(client), client.address), counts, strict=True)
    ]

    def wait_for_work() -> None:
        """Wait until each worker has made ten more calls, and make ten over HTTP."""
        wait_until(lambda: all(count.exists() for count in counts))
        before = [count.stat().st_size for count in counts]
        for _ in range(10):
            http.get("/outer").raise_for_status()
        wait_until(
            lambda: all(
                worker.poll() is not None or count.stat().st_size > then + 10
                for worker, count, then in zip(workers, counts, before, strict=True)
            )
        )

    secrets = [read_secrets(keys / "secret")]
    with (
        httpx.Client(base_url=client.http_urls[0], trust_env=False, timeout=30) as http,
        caplog.at_level(logging.DEBUG),
    ):
        try:
            wait_for_work()
            assert rotate_keys(NAME, str(keys / "secret"), None) == (str(keys), True)
            secrets.append(read_secrets(keys / "secret"))
            wait_for_work()
            assert retire_keys(NAME, str(keys / "secret"), None) == (str(keys), True)
            wait_for_work()
        finally:
            stop.touch()
        routes = http.get("/-/routes").text
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["served\n", "served\n"]
    for key in secrets:
        assert key is not None
        for text in (each.secret.hex() for each in key.each):
            assert text not in caplog.text
            assert text not in routes


def test_old_keys_are_valid_until_they_are_retired(
    client: serve.Client, keys: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then connections with them end, and new ones are refused."""
    old = tmp_path / "old.key"
    shutil.copy(keys / f"{NAME}.forward.key", old)
    rotate_keys(NAME, str(keys / "secret"), None)
    for path in (old, keys / f"{NAME}.forward.key"):
        monkeypatch.setenv(KEY_FILE_VARIABLE, str(path))
        with_key = find_client(address(client), NAME)
        assert with_key.get_handle("outer").call() == "inner"
        with_key.close()
    _, key = read_key_file(old)

    async def ends() -> bool:
        connection = await dial(link_of(client).instance.controller, key, client.generation, Role.FORWARD)
        changed = asyncio.Event()
        connection.on_change = changed.set
        await asyncio.to_thread(retire_keys, NAME, str(keys / "secret"), None)
        await asyncio.wait_for(changed.wait(), 20)
        return connection.closed

    assert asyncio.run(ends())
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(old))
    with pytest.raises(serve.NotConnected, match="it was retired"):
        find_client(address(client), NAME)


def test_new_replicas_have_the_new_keys(client: serve.Client, keys: Path) -> None:
    """They start after the old ones were retired."""
    rotate_keys(NAME, str(keys / "secret"), None)
    retire_keys(NAME, str(keys / "secret"), None)
    client.create_backend("later", lambda request: "later")
    client.create_endpoint("later", backend="later")
    assert client.get_handle("later").call() == "later"


def test_keys_of_an_instance_that_does_not_run_are_replaced_in_the_file(tmp_path: Path) -> None:
    """Its next start uses them."""
    first, _ = kept_key("resting", str(tmp_path / "secret"))
    assert rotate_keys("resting", str(tmp_path / "secret"), None) == (str(tmp_path), False)
    both = read_secrets(tmp_path / "secret")
    assert both is not None
    assert [each.id for each in both.each][1:] == [first.id]
    assert read_key_file(tmp_path / "resting.call.key")[1].id == both.id != first.id
    retire_keys("resting", str(tmp_path / "secret"), None)
    left = read_secrets(tmp_path / "secret")
    assert left is not None
    assert [each.id for each in left.each] == [both.id]


def test_the_command_line_replaces_keys(tmp_path: Path) -> None:
    """It says where the new key files are, and what comes next."""
    kept_key("resting", str(tmp_path / "secret"))
    program = "import sys\nfrom serve_bridge.cli.main import main\nmain(['keys', *sys.argv[1:]])"
    options = ("--name", "resting", "--key-file", str(tmp_path / "secret"))
    printed = run_program(program, "rotate", *options)
    assert f"new keys are in {tmp_path}; copy the key files" in printed
    assert "serve-bridge keys retire" in printed
    assert "resting does not run" in run_program(program, "retire", *options)


def test_an_instance_without_kept_keys_is_named(tmp_path: Path) -> None:
    """With the file that was looked for."""
    with pytest.raises(serve.ConfigError, match=f"'nobody' keeps no keys in {tmp_path / 'secret'}"):
        rotate_keys("nobody", str(tmp_path / "secret"), None)


def test_keys_of_another_instance_are_refused(client: serve.Client, tmp_path: Path) -> None:
    """The running instance keeps its own, and the files of both stay."""
    kept_key(NAME, str(tmp_path / "wrong"))
    before = contents(tmp_path)
    for change in (rotate_keys, retire_keys):
        with pytest.raises(serve.ConfigError, match=rf"{tmp_path / 'wrong'} are not those of instance .* --key-file"):
            change(NAME, str(tmp_path / "wrong"), None)
    assert contents(tmp_path) == before
    assert client.get_handle("outer").call() == "inner"


def test_a_rotation_that_was_interrupted_must_be_repeated(client: serve.Client, keys: Path) -> None:
    """A `keys rotate` that was killed may have written the files only. The old key is then the only one in use."""
    path = keys / "secret"
    old = read_secrets(path)
    assert old is not None
    write_secrets(path, NAME, Key.joined([Key(), old]))
    before = contents(keys)
    with pytest.raises(serve.ConfigError, match=f"{path}, since .* run `serve-bridge keys rotate` again"):
        retire_keys(NAME, str(path), None)
    assert contents(keys) == before
    assert rotate_keys(NAME, str(path), None) == (str(keys), True)
    assert retire_keys(NAME, str(path), None) == (str(keys), True)
    found = find_client(None, NAME)
    left = read_secrets(path)
    assert left is not None
    assert [each.id for each in link_of(found).instance.key.each] == [each.id for each in left.each]
    assert found.get_handle("outer").call() == "inner"
    found.close()


@pytest.mark.parametrize("change", [rotate_keys, retire_keys])
def test_keys_of_a_running_instance_that_is_not_found_stay(
    change: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as in a job of cron, which has no XDG_RUNTIME_DIR. New keys would be valid in the file alone."""
    state = str(tmp_path / "state")
    client = serve.start(runtime="local", name="unseen", state=state, http_options={"location": "NoServer"})
    before = contents(tmp_path / "state")
    with monkeypatch.context() as cron:
        cron.setenv("XDG_RUNTIME_DIR", str(tmp_path / "elsewhere"))
        with pytest.raises(serve.ConfigError, match=rf"'unseen' runs in process {os.getpid()}, .* set XDG_RUNTIME_DIR"):
            change("unseen", None, state)
    assert contents(tmp_path / "state") == before
    assert change("unseen", None, state) == (str(tmp_path / "state" / "unseen"), True)
    client.shutdown()


def test_two_changes_of_keys_follow_each_other(client: serve.Client, keys: Path) -> None:
    """Every secret that one of them has made is valid, in the file and in the instance."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: rotate_keys(NAME, str(keys / "secret"), None), range(4)))
    kept = read_secrets(keys / "secret")
    assert kept is not None
    assert len(kept.each) == 5
    found = find_client(None, NAME)
    assert {each.id for each in link_of(found).instance.key.each} == {each.id for each in kept.each}
    found.close()


def test_a_key_becomes_another_for_all_that_hold_it() -> None:
    """A process shares one object."""
    key = Key()
    new = Key.joined([Key(), key])
    key.replace(new)
    assert key.id == new.id
