"""Bad input of `start` and of a web host: one line that names the value and the way out, and nothing changed.

The table has a row for each kind of bad input. The tests of the modules look at the details of each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

import serve_bridge as serve
from serve_bridge.cli.failures import failure_of
from serve_bridge.client.key_changes import rotate_keys
from serve_bridge.config.tls import Tls
from serve_bridge.instance.instance_file import ADDRESS_VARIABLE
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE, kept_key
from serve_bridge.instance.tls_files import VARIABLES
from serve_bridge.state.records import StateRecord
from serve_bridge.state.state_files import StateFiles
from tests.support.certificates import make_tls
from tests.support.disk import files_of_at_most
from tests.support.listening import free_port
from tests.support.listening_engine import port_of, start_listening

NAME = "right"
NOBODY = 65534
"""The id of another user."""


class Place(NamedTuple):
    """Where a row does its work.

    Attributes:
        directory: An empty directory of its own.
        address: The address of an instance with TLS.
        keys: The directory of the key files of that instance.
        authority: The authority of its certificates.
        set: Sets a variable of the environment.
        stack: Ends what the row begins.
        client: A client of the instance with all roles.
    """

    directory: Path
    address: str
    keys: Path
    authority: trustme.CA
    set: Callable[[str, str], None]
    stack: ExitStack
    client: serve.Client


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The team's own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[tuple[serve.Client, Path]]:
    """An instance with TLS, and the directory of its keys."""
    directory = tmp_path_factory.mktemp("engine")
    tls = make_tls(directory, "engine", authority, f"serve-bridge://{NAME}/engine")
    client = start_listening(NAME, directory, free_port(), tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca)
    client.create_backend("b", lambda request: "served")
    client.create_endpoint("e", backend="b")
    yield client, directory
    client.shutdown()


@pytest.fixture
def place(
    engine: tuple[serve.Client, Path], authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """A web host with the right variables, in which a row makes one thing wrong."""
    client, keys = engine
    address = f"serve-bridge://127.0.0.1:{port_of(client)}/{NAME}"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    own = make_tls(keys, "web", authority, f"serve-bridge://{NAME}/call")
    for name, value in zip(VARIABLES, own[:3], strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(keys / f"{NAME}.call.key"))
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    (tmp_path / "row").mkdir(mode=0o700)
    with ExitStack() as stack:
        yield Place(tmp_path / "row", address, keys, authority, monkeypatch.setenv, stack, client)


def connect(place: Place, address: str | None = None) -> None:
    """Connect as a web host, and call."""
    client = serve.connect(address or place.address)
    client.get_handle("e").call()
    client.close()


def start(place: Place, **options: object) -> None:
    """Start an instance, with its state below the row's directory unless *options* say otherwise."""
    given = {"state": str(place.directory), "http_options": {"location": "NoServer"}, **options}
    client = serve.start(runtime="local", name="new", **given)  # type: ignore[call-overload]
    place.stack.callback(client.shutdown)


def use(place: Place, tls: Tls) -> str:
    """Let this web host use other files; return the path of the certificate."""
    for name, value in zip(VARIABLES, tls[:3], strict=True):
        place.set(name, value)
    return tls.cert


Row = Callable[[Place], tuple[Callable[[], None], str, str]]
"""Prepares one bad input; returns the work that must fail, the value that the line names, and the way out."""


def wrong_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """The key file of another instance of this name."""
    kept_key(NAME, str(place.directory / "secret"))
    wrong = place.directory / f"{NAME}.forward.key"
    place.set(KEY_FILE_VARIABLE, str(wrong))
    return lambda: connect(place), f"SERVE_BRIDGE_KEY_FILE={wrong}", f"copy {NAME}.forward.key again"


def changed_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """The id of the right key, and other bytes."""
    words = (place.keys / f"{NAME}.call.key").read_text().split()
    path = place.directory / "changed.key"
    path.touch(0o600)
    path.write_text(" ".join([*words[:3], "00" * 32]))
    place.set(KEY_FILE_VARIABLE, str(path))
    return lambda: connect(place), f"SERVE_BRIDGE_KEY_FILE={path}", f"copy {NAME}.call.key again"


def foreign_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """It belongs to another user."""
    path = place.directory / "foreign.key"
    path.touch(0o600)
    os.chown(path, NOBODY, NOBODY)
    place.set(KEY_FILE_VARIABLE, str(path))
    return lambda: connect(place), str(path), "run as that user, or use a file of your own"


def unreadable_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """Its name is longer than a name may be; root could read a file without permissions."""
    path = f"{place.directory}/{'x' * 300}.key"
    place.set(KEY_FILE_VARIABLE, path)
    return lambda: connect(place), path, "give the path of a file that this user can read"


def damaged_secret(place: Place) -> tuple[Callable[[], None], str, str]:
    """On the host of the instance no other host has a copy."""
    path = place.directory / "new" / "secret"
    path.parent.mkdir(mode=0o700)
    path.touch(0o600)
    path.write_text("serve-bridge-key-1 secret")
    return lambda: start(place), str(path), "restore it from a backup, or remove it"


def no_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """The path of no file."""
    place.set(KEY_FILE_VARIABLE, "/nowhere/a.key")
    return lambda: connect(place), "/nowhere/a.key", "copy it from the host"


def open_key(place: Place) -> tuple[Callable[[], None], str, str]:
    """A key file that others can read."""
    path = place.directory / "open.key"
    path.write_bytes((place.keys / f"{NAME}.call.key").read_bytes())
    path.chmod(0o644)
    place.set(KEY_FILE_VARIABLE, str(path))
    return lambda: connect(place), str(path), f"chmod 600 {path}"


def wrong_role(place: Place) -> tuple[Callable[[], None], str, str]:
    """A key that allows calls, and an operation."""

    def work() -> None:
        client = serve.connect(place.address)
        place.stack.callback(client.close)
        client.set_traffic("e", {"b": 1.0})

    return work, "set_traffic needs the role manage, and this process has the role call", f"to {NAME}.manage.key"


def unknown_role(place: Place) -> tuple[Callable[[], None], str, str]:
    """A key file whose role is misspelt."""
    path = place.directory / "a.key"
    path.touch(0o600)
    path.write_text((place.keys / f"{NAME}.call.key").read_text().replace(" call ", " caller "))
    place.set(KEY_FILE_VARIABLE, str(path))
    return lambda: connect(place), str(path), "role or its key is malformed; copy it again"


def wrong_name(place: Place) -> tuple[Callable[[], None], str, str]:
    """An instance is there, but another one."""
    address = place.address.replace(NAME, "wrong")
    return lambda: connect(place, address), address, "correct the name in the address"


def wrong_port(place: Place) -> tuple[Callable[[], None], str, str]:
    """Nothing listens there."""
    address = f"serve-bridge://127.0.0.1:{free_port()}/{NAME}"
    return lambda: connect(place, address), address, "start it there, or correct the address"


def missing_file(place: Place) -> tuple[Callable[[], None], str, str]:
    """The path of no instance."""
    return lambda: connect(place, "/nowhere/a.json"), "address='/nowhere/a.json'", "start it, or correct the address"


def wrong_host(place: Place) -> tuple[Callable[[], None], str, str]:
    """No such host."""
    address = f"serve-bridge://nowhere.invalid:7000/{NAME}"
    return lambda: connect(place, address), address, "start it there, or correct the address"


def malformed_address(place: Place) -> tuple[Callable[[], None], str, str]:
    """It has no port."""
    return lambda: connect(place, "serve-bridge://a/b"), "'serve-bridge://a/b'", "serve-bridge://HOST:PORT/NAME"


def expired_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """It was valid until yesterday."""
    cert = use(place, make_tls(place.directory, "old", place.authority, f"serve-bridge://{NAME}/call", days=(-3, -1)))
    return lambda: connect(place), cert, "renew"


def foreign_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """Another authority signed it."""
    foreign = make_tls(place.directory, "foreign", trustme.CA(), f"serve-bridge://{NAME}/call")
    cert = use(place, foreign._replace(ca=os.environ[VARIABLES[2]]))
    return lambda: connect(place), cert, "use a certificate of the authority"


def foreign_authority(place: Place) -> tuple[Callable[[], None], str, str]:
    """Another authority signed the certificate of the engine."""
    own = make_tls(place.directory, "own", trustme.CA(), f"serve-bridge://{NAME}/call")
    use(place, own._replace(cert=os.environ[VARIABLES[0]], key=os.environ[VARIABLES[1]]))
    return lambda: connect(place), place.address, "SERVE_BRIDGE_TLS_CA"


def expired_at_start(place: Place) -> tuple[Callable[[], None], str, str]:
    """The engine's own certificate has expired."""
    tls = make_tls(place.directory, "old", place.authority, days=(-3, -1))
    options = {"tls_cert": tls.cert, "tls_key": tls.key, "tls_ca": tls.ca}
    return lambda: start(place, listen=f"127.0.0.1:{free_port()}", **options), tls.cert, "has expired; .*renew it"


def missing_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """The path of no file."""
    tls = make_tls(place.directory, "own", place.authority)
    options = {"tls_cert": "/nowhere/a.crt", "tls_key": tls.key, "tls_ca": tls.ca}
    return lambda: start(place, listen="127.0.0.1:0", **options), "/nowhere/a.crt", "give the path of a file in PEM"


def key_of_another_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """Both files are of the team's authority."""
    own, other = (make_tls(place.directory, name, place.authority) for name in ("own", "other"))
    options = {"tls_cert": own.cert, "tls_key": other.key, "tls_ca": own.ca}
    return lambda: start(place, listen="127.0.0.1:0", **options), other.key, "give the one that is"


def taken_address(place: Place) -> tuple[Callable[[], None], str, str]:
    """Another instance listens there."""
    taken = f"127.0.0.1:{port_of(place.client)}"
    return lambda: start(place, listen=taken), taken, "another process has this port; use another one"


def other_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """The engine's own certificate is for another instance."""
    tls = make_tls(place.directory, "other", place.authority, f"serve-bridge://{NAME}/engine")
    options = {"tls_cert": tls.cert, "tls_key": tls.key, "tls_ca": tls.ca}
    return (
        lambda: start(place, listen=f"127.0.0.1:{free_port()}", **options),
        f"{tls.cert}' is for serve-bridge://{NAME}/engine",
        "needs serve-bridge://new/engine; give",
    )


def web_certificate(place: Place) -> tuple[Callable[[], None], str, str]:
    """The engine has the certificate of a web host."""
    tls = make_tls(place.directory, "web", place.authority, "serve-bridge://new/forward")
    options = {"tls_cert": tls.cert, "tls_key": tls.key, "tls_ca": tls.ca}
    return (
        lambda: start(place, listen=f"127.0.0.1:{free_port()}", **options),
        "serve-bridge://new/forward",
        "needs serve-bridge://new/engine; give",
    )


def shared_port(place: Place) -> tuple[Callable[[], None], str, str]:
    """The port of the proxies is in the range."""
    port = free_port(following=5)
    options = {"data_ports": f"{port}-{port + 5}", "http_options": {"port": port}}
    return lambda: start(place, listen="127.0.0.1:0", **options), f"port={port}", "use another port or range"


def address_of_another_host(place: Place) -> tuple[Callable[[], None], str, str]:
    """192.0.2.0/24 is for documentation, so no host has it."""
    return lambda: start(place, listen="192.0.2.1:7000"), "192.0.2.1:7000", r"give another address .*\(--listen"


def unknown_host_of_proxies(place: Place) -> tuple[Callable[[], None], str, str]:
    """No such host."""
    options = {"host": "nowhere.invalid", "port": 0}
    return lambda: start(place, http_options=options), "nowhere.invalid:0", "give another one, .*--host"


def foreign_host_of_proxies(place: Place) -> tuple[Callable[[], None], str, str]:
    """192.0.2.0/24 is for documentation, so no host has it."""
    return (
        lambda: start(place, http_options={"host": "192.0.2.1", "port": 0}),
        "192.0.2.1:0",
        "give another one, .*--host",
    )


def inner_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """The folder of another instance in the state directory."""
    other = place.directory / "other"
    files = StateFiles(other)
    files.lock()
    files.write(StateRecord(instance="other", backends={}, endpoints={}, unfinished={}), {})
    place.stack.callback(files.close)
    return lambda: start(place, state=str(other)), f"state='{other}'", f"give the directory above it, {other.parent}"


def small_range(place: Place) -> tuple[Callable[[], None], str, str]:
    """Two ports for three replicas."""
    first = free_port(following=1)
    start(place, listen=f"127.0.0.1:{free_port()}", data_ports=f"{first}-{first + 1}", state=False)

    def work() -> None:
        serve.connect(name="new").create_backend("three", lambda request: None, config={"num_replicas": 3})

    return work, f"data_ports='{first}-{first + 1}'", "at least 3 processes need one"


def malformed_range(place: Place) -> tuple[Callable[[], None], str, str]:
    """Its end is before its begin."""
    return lambda: start(place, listen="127.0.0.1:0", data_ports="7050-7001"), "7050-7001", "7001-7050|FIRST-LAST"


def unwritable_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """The kernel lets no user make a directory there."""
    return lambda: start(place, state="/proc/state"), "/proc/state/new", r"\(--state"


def foreign_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """The directory belongs to another user."""
    (place.directory / "new").mkdir(mode=0o700)
    os.chown(place.directory / "new", NOBODY, NOBODY)
    return lambda: start(place), f"{place.directory}/new", r"belongs to another user; .*\(--state"


def full_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """The disk is full."""

    def work() -> None:
        with files_of_at_most(10):
            start(place)

    return work, f"{place.directory}/new", "--state"


def full_change(place: Place) -> tuple[Callable[[], None], str, str]:
    """The disk is full after the start."""
    start(place)
    client = serve.connect(name="new")

    def work() -> None:
        with files_of_at_most(10):
            client.create_backend("b", lambda request: None)

    return work, f"{place.directory}/new", "nothing was changed; make room"


def full_rotation(place: Place) -> tuple[Callable[[], None], str, str]:
    """The disk is full when new keys are made."""
    kept_key("new", str(place.directory / "secret"))

    def work() -> None:
        with files_of_at_most(10):
            rotate_keys("new", str(place.directory / "secret"), None)

    return work, f"{place.directory}", "nothing was changed; make room"


def newer_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """A later version of the library wrote it."""
    (place.directory / "new").mkdir(mode=0o700)
    (place.directory / "new" / "state.json").write_text('{"format": 99, "written_by": "9.1"}\n')
    return lambda: start(place), f"{place.directory}/new/state.json", "written by serve_bridge '9.1'.*--fresh"


def used_state(place: Place) -> tuple[Callable[[], None], str, str]:
    """Another process keeps a state there."""
    used = StateFiles(place.directory / "new")
    used.lock()
    place.stack.callback(used.close)
    return lambda: start(place), f"{place.directory}/new", f"in process {os.getpid()}; .*--state"


ROWS: tuple[Row, ...] = (
    *(unknown_host_of_proxies, foreign_host_of_proxies),
    *(
        unreadable_key,
        changed_key,
        foreign_key,
        damaged_secret,
        missing_file,
        missing_certificate,
        key_of_another_certificate,
    ),
    *(wrong_key, no_key, open_key, wrong_role, unknown_role, wrong_name, wrong_port, wrong_host, malformed_address),
    *(expired_certificate, foreign_certificate, foreign_authority, expired_at_start, small_range, malformed_range),
    *(other_certificate, web_certificate, shared_port, inner_state, address_of_another_host, taken_address),
    *(unwritable_state, foreign_state, full_state, full_change, full_rotation, newer_state, used_state),
)


def files_below(directory: Path) -> dict[str, bytes]:
    """Return the files below *directory*, by path, with their content."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(directory.rglob("*"))}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_bad_input_gives_one_line_and_changes_nothing(place: Place, row: Row) -> None:
    """The line names the value and the way out."""
    work, value, way_out = row(place)
    before = files_below(place.directory.parent), place.client.list_backends(), place.client.list_endpoints()
    with pytest.raises(Exception) as caught:  # noqa: PT011  # each has its own type, and the command line knows all
        work()
    failure = failure_of(caught.value)
    assert failure is not None, "the command line would print a traceback"
    assert "\n" not in failure.text
    assert value in failure.text
    assert re.search(way_out, failure.text), failure.text
    after = files_below(place.directory.parent), place.client.list_backends(), place.client.list_endpoints()
    assert after == before
    assert place.client.get_handle("e").call() == "served"
