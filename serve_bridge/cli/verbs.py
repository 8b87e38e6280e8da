"""The verbs that every command line has: `serve-bridge`, `manage.py serve_bridge`, `flask serve-bridge`.

Rule 1: a verb takes a client and the words that the user typed, and returns a `Report`. It does not print or exit.
    A command line prints `Report.formatted` and `printable.error_text`. Both remove control characters.
Rule 2: a meaningless word raises `Misused`, which names it. Other failures raise the errors of the Python API.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Unpack

from serve_bridge.cli.failures import Misused, Stopped
from serve_bridge.cli.report import Report, shown_methods, status_text, traffic_table
from serve_bridge.client.client import Client, link_of
from serve_bridge.config.deploy_options import DeployOptions
from serve_bridge.deployment.apply import CODE_S
from serve_bridge.deployment.apply import apply as apply_to
from serve_bridge.deployment.deploy import Change, Confirm
from serve_bridge.deployment.deploy import deploy as deploy_to
from serve_bridge.deployment.result import Interrupted, listed
from serve_bridge.errors import BackendError, ConfigError, EndpointNotFound, SerializationError, ServeBridgeError
from serve_bridge.http.json_encoding import as_json
from serve_bridge.instance.operations import Operation
from serve_bridge.management.operator import OPERATION_S
from serve_bridge.printable import printable, printable_json, shown

__all__ = [
    "apply",
    "call",
    "confirmation",
    "deploy",
    "export",
    "run",
    "shadow",
    "status",
    "traffic",
]


def deploy(
    client: Client, what: Iterable[object], *, confirm: Confirm | None = None, **options: Unpack[DeployOptions]
) -> Report:
    """Bring the instance to what *what* declares: modules, declared objects, or import paths of both.

    *confirm* gets the deletions of --prune before the first change; see `confirmation`.

    Raises:
        ConfigError: A path names nothing, or no module is given.
        Stopped: The user pressed Ctrl-C.
        Exception: As `serve_bridge.deploy`.
    """
    try:
        deployment = deploy_to(*what, client=link_of(client), confirm=confirm, **options)
    except Interrupted as interrupted:
        raise Stopped(str(interrupted)) from None
    return Report(deployment.as_dict(), str(deployment))


def run(command: str, client: Client, given: Mapping[str, Any]) -> Report:
    """Run one of `declarations.COMMANDS` with the values of its options and arguments; raises as its function here."""
    if command == "call":
        given = {**given, "data": sys.stdin.read() if given["data"] == "-" else given["data"]}
    work: Mapping[str, Callable[..., Report]] = {"status": status, "traffic": traffic, "shadow": shadow, "call": call}
    return work[command](client, **given)


def export(client: Client, *, with_code: bool = False) -> Report:
    """Show what users asked of the instance, as JSON. With code, `apply` needs no other file."""
    timeout_s = CODE_S if with_code else OPERATION_S
    document: bytes = link_of(client).operate(Operation.EXPORT_STATE, with_code, timeout_s=timeout_s)
    return Report(json.loads(document), document.decode().rstrip("\n"))


def apply(client: Client, file: str, *, confirm: Confirm | None = None, dry_run: bool = False) -> Report:
    """Make the instance match the exported state in *file*; "-" is standard input.

    Raises:
        ConfigError: The file cannot be read, or is not a state. Nothing has changed.
        Stopped: The user pressed Ctrl-C.
        DeploymentError: A change failed. The error says which changes were made.
    """
    try:
        document = sys.stdin.buffer.read() if file == "-" else _content(file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None
    try:
        deployment = apply_to(document, file, client=link_of(client), confirm=confirm, dry_run=dry_run)
    except Interrupted as interrupted:
        raise Stopped(str(interrupted)) from None
    return Report(deployment.as_dict(), str(deployment))


def _content(path: str) -> bytes:
    """Return the content of the file at *path*, which may be a pipe, such as one from `apply <(...)`.

    Raises:
        OSError: It cannot be read, or is a device, which may have no end.
    """
    # O_NONBLOCK, because the open of a FIFO would wait for a writer. The read waits for those that are there.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(mode := os.fstat(file.fileno()).st_mode) and not stat.S_ISFIFO(mode):
            raise OSError("it is neither a file nor a pipe")
        os.set_blocking(file.fileno(), True)
        return file.read()


def confirmation(yes: bool, ask: Callable[[str], bool], what: str = "--prune") -> Confirm:
    """Return the question of a command line before deletions: *ask* gets a text and returns whether the user agrees.

    With --yes it asks nothing. Without a terminal it raises a ConfigError. *what* deletes.
    """

    def confirm(deletions: Sequence[Change]) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            names = ", ".join(change.title for change in deletions)
            raise ConfigError(f"{what} needs --yes where there is no terminal to ask at; it would {names}")
        if not ask(printable("\n".join([f"{what} deletes:", *listed(deletions), "Delete them?"]), lines=True)):
            raise ConfigError("nothing was changed")

    return confirm


def status(client: Client) -> Report:
    """Show the instance's proxies, backends, replicas and endpoints."""
    found: dict[str, Any] = {"address": client.address, **client.status()}
    for endpoint in found["endpoints"].values():
        endpoint["methods"] = shown_methods(endpoint)
    return Report(found, status_text(found))


def traffic(client: Client, endpoint: str | None = None, weights: Sequence[str] = ()) -> Report:
    """Show the traffic of all endpoints or of *endpoint*; with *weights*, such as "a=0.9", "b=0.1", set it first.

    Raises:
        ConfigError: A weight is not a number, or they do not sum to 1.
        EndpointNotFound, BackendNotFound: One is unknown; the old split stays.
    """
    if weights:
        if endpoint is None:
            raise Misused("weights need an endpoint")
        client.set_traffic(endpoint, _weights(weights))
    elif endpoint is not None and "=" in endpoint:  # no name has a "="
        raise Misused(f"which endpoint? traffic ENDPOINT {printable(endpoint)}")
    return _traffic_of(client, endpoint)


def shadow(client: Client, endpoint: str, backend: str, proportion: str | float) -> Report:
    """Send copies of a share of *endpoint*'s requests to *backend*; 0 removes the shadow.

    Raises:
        ConfigError: *proportion* is not a number from 0 to 1.
        EndpointNotFound, BackendNotFound: One is unknown.
    """
    share = _number("proportion", proportion)
    if not 0 <= share <= 1:
        raise Misused(f"proportion must be a number from 0 to 1, got {shown(proportion)}")
    client.shadow_traffic(endpoint, backend, share)
    return _traffic_of(client, endpoint)


def call(
    client: Client, endpoint: str, data: str | None = None, *, method: str | None = None, timeout_s: float | None = None
) -> Report:
    """Call *endpoint* with *data*, a JSON text, and show the result.

    Args:
        client: The client of the instance.
        endpoint: The endpoint to call.
        data: JSON text; None: no data.
        method: Method of the backend; None: `__call__`.
        timeout_s: Time limit in seconds; None: the default of handles.

    Raises:
        ConfigError: *data* is not JSON.
        SerializationError: The result has no form in JSON.
        BackendError: The backend raised; it has the remote traceback.
    """
    try:
        value = None if data is None else json.loads(data)
    except RecursionError:
        raise Misused("the data is nested too deep to be read as JSON") from None
    except ValueError as error:
        raise Misused(f'the data must be JSON, such as 5, "text" or {{"a": 1}}: {error}; got {shown(data)}') from None
    handle = client.get_handle(endpoint)
    options: dict[str, Any] = {"method_name": method, "timeout_s": timeout_s}
    try:
        handle = handle.options(**{name: option for name, option in options.items() if option is not None})
    except ConfigError as error:
        raise Misused(str(error)) from None
    try:
        result = handle.call(value)
    except ServeBridgeError:
        raise
    except Exception as error:  # the error of the backend, of any type
        raise BackendError(type(error).__name__, str(error), str(error.__cause__ or "").strip()) from error
    try:
        answer = json.loads(as_json(result))
        text = answer if isinstance(answer, str) else printable_json(json.dumps(answer, indent=2, ensure_ascii=False))
    except RecursionError:
        raise SerializationError("the result of the backend is nested too deep to be shown") from None
    return Report(answer, text)


def _traffic_of(client: Client, endpoint: str | None) -> Report:
    endpoints = client.list_endpoints()
    if endpoint is not None:
        if endpoint not in endpoints:
            raise EndpointNotFound(endpoint, endpoints)
        endpoints = {endpoint: endpoints[endpoint]}
    data = {name: {"traffic": each["traffic"], "shadows": each["shadows"]} for name, each in endpoints.items()}
    return Report(data, traffic_table(endpoints))


def _weights(words: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for word in words:
        backend, equals, weight = word.rpartition("=")
        if not equals or not backend:
            raise Misused(f"a weight reads 'backend=0.9', got {shown(word)}")
        if backend in weights:
            raise Misused(f"backend {backend!r} has two weights")
        weights[backend] = _number(f"the weight of {backend!r}", weight)
    return weights


def _number(name: str, word: str | float) -> float:
    try:
        return float(word)
    except (TypeError, ValueError):
        raise Misused(f"{name} must be a number, got {shown(word)}") from None
