"""The verbs that every command line has: `serve-bridge`, `manage.py serve_bridge`, `flask serve-bridge`.

Rule 1: a verb takes a client and words as they were typed, and returns a `Report`; it prints nothing and ends nothing.
A command line prints `Report.formatted` and `printable.error_text`: neither holds a control character of a backend.
Rule 2: words that mean nothing are a `Misused` that names them; whatever else fails is the engine's own error.
Rule 3: which errors are one line on stderr, and which exit code they have, is decided by `failure_of` for all of them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Unpack

from serve_bridge.client.client import Client, link_of
from serve_bridge.config.deploy_options import DeployOptions
from serve_bridge.deployment.deploy import Change, Confirm, Interrupted, listed
from serve_bridge.deployment.deploy import deploy as deploy_to
from serve_bridge.errors import BackendError, ConfigError, EndpointNotFound, SerializationError, ServeBridgeError
from serve_bridge.http.json_encoding import as_json
from serve_bridge.http.methods import ANY_METHOD
from serve_bridge.printable import error_text, printable, printable_json, shown

__all__ = [
    "Failure",
    "Misused",
    "Report",
    "call",
    "confirmation",
    "deploy",
    "failure_of",
    "shadow",
    "status",
    "traffic",
]


class Misused(ConfigError):
    """A command was written wrongly; the message says how it is written."""


class Stopped(ServeBridgeError):
    """The user has stopped a verb with Ctrl-C; the message says what goes on."""


@dataclass(frozen=True)
class Failure:
    """How a command line ends after an error that its user can do something about.

    Attributes:
        text: What to print.
        code: The exit code: 1 for a failure, 2 for a command that was written wrongly, 130 after Ctrl-C.
    """

    text: str
    code: int


def failure_of(error: BaseException) -> Failure | None:
    """Return how a command line ends after *error*; None: it is a fault of the library and needs its traceback."""
    if not isinstance(error, ServeBridgeError | ImportError | OSError | TypeError | ValueError):
        return None
    text = error_text(error) or type(error).__name__
    return Failure(text, 2 if isinstance(error, Misused) else 130 if isinstance(error, Stopped) else 1)


@dataclass(frozen=True)
class Report:
    """What a verb has found or done.

    Attributes:
        data: For programs: values that JSON has.
        text: For people: lines without a line feed at the end.
    """

    data: Any
    text: str

    def formatted(self, form: str) -> str:
        """Return what to print: JSON if *form* is "json", otherwise the text; no control character is left in it."""
        if form == "json":
            return printable_json(json.dumps(self.data, indent=2))
        return printable(self.text, lines=True)


def deploy(
    client: Client, what: Iterable[object], *, confirm: Confirm | None = None, **options: Unpack[DeployOptions]
) -> Report:
    """Bring the instance to what *what* declares: modules, declared objects, or import paths of both.

    *confirm* gets what --prune deletes, before the first change; see `confirmation`.

    Raises:
        ConfigError: A path leads nowhere, or nothing at all was named.
        Stopped: The user pressed Ctrl-C.
        Exception: As `serve_bridge.deploy`.
    """
    try:
        deployment = deploy_to(*what, client=link_of(client), confirm=confirm, **options)
    except Interrupted as interrupted:
        raise Stopped(str(interrupted)) from None
    return Report(deployment.as_dict(), str(deployment))


def confirmation(yes: bool, ask: Callable[[str], bool]) -> Confirm:
    """Return what a command line asks before it deletes: *ask* gets a text and returns whether the user agrees.

    It asks nothing if the user has given --yes. Without a terminal it raises a ConfigError that says so.
    """

    def confirm(deletions: Sequence[Change]) -> None:
        if yes:
            return
        if not sys.stdin.isatty():
            names = ", ".join(change.title for change in deletions)
            raise ConfigError(f"--prune needs --yes where there is no terminal to ask at; it would {names}")
        if not ask(printable("\n".join(["--prune deletes:", *listed(deletions), "Delete them?"]), lines=True)):
            raise ConfigError("nothing was changed")

    return confirm


def status(client: Client) -> Report:
    """Show the instance's proxies, backends, replicas and endpoints."""
    found: dict[str, Any] = {"address": client.address, **client.status()}
    for endpoint in found["endpoints"].values():
        endpoint["methods"] = _taken(endpoint)
    backends = [
        (
            name,
            f"{_counted(backend['replicas'].values())} of {backend['wanted']}",
            *_deployed(backend),
            backend["failure"] or "",
        )
        for name, backend in found["backends"].items()
    ]
    text = [f"instance {found['name']}  {'  '.join(found['http_urls']) or 'no proxy'}", ""]
    refused = [line for proxy in found["proxies"].values() if (line := _refused(proxy))]
    unfinished = [_unfinished(each) for each in found["deployments"]]
    text += [line for lines in (refused, unfinished) if lines for line in (*lines, "")]
    nodes = [(node["address"], node["proxy"] or "none", node["failure"] or "") for node in found["nodes"].values()]
    if len(nodes) > 1 or any(failure for *_, failure in nodes):
        text += [_table(("node", "proxy", "failure"), nodes), ""]
    head = ("backend", "replicas", "project", "version", "deployed", "failure")
    text += [_table(head, backends), "", _traffic_table(found["endpoints"])]
    return Report(found, "\n".join(text))


def traffic(client: Client, endpoint: str | None = None, weights: Sequence[str] = ()) -> Report:
    """Show the traffic of all endpoints or of *endpoint*; with *weights*, such as "a=0.9", "b=0.1", set it first.

    Raises:
        ConfigError: A weight is not a number, or they do not sum to 1.
        EndpointNotFound, BackendNotFound: One is unknown; the old split stays.
    """
    if weights:
        if endpoint is None:
            raise Misused("weights need the endpoint that they are for")
        client.set_traffic(endpoint, _weights(weights))
    elif endpoint is not None and "=" in endpoint:  # no name has a "="
        raise Misused(f"which endpoint? traffic ENDPOINT {printable(endpoint)}")
    return _traffic_of(client, endpoint)


def shadow(client: Client, endpoint: str, backend: str, proportion: str | float) -> Report:
    """Send copies of a share of *endpoint*'s requests to *backend* as well; 0 ends that.

    Raises:
        ConfigError: *proportion* is no number from 0 to 1.
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
    """Call *endpoint* with *data*, which is JSON, or with none, and show what it returns.

    Args:
        client: Whose instance.
        endpoint: Whom to call.
        data: JSON text.
        method: Method of the backend; None: `__call__`.
        timeout_s: Seconds it may take; None: the default of handles.

    Raises:
        ConfigError: *data* is no JSON.
        SerializationError: What it returns has no form in JSON.
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
    except Exception as error:  # the backend's own, of any type
        raise BackendError(type(error).__name__, str(error), str(error.__cause__ or "").strip()) from error
    try:
        answer = json.loads(as_json(result))
        text = answer if isinstance(answer, str) else printable_json(json.dumps(answer, indent=2, ensure_ascii=False))
    except RecursionError:
        raise SerializationError("what the backend returned is nested too deep to be shown") from None
    return Report(answer, text)


def _traffic_of(client: Client, endpoint: str | None) -> Report:
    endpoints = client.list_endpoints()
    if endpoint is not None:
        if endpoint not in endpoints:
            raise EndpointNotFound(endpoint, endpoints)
        endpoints = {endpoint: endpoints[endpoint]}
    data = {name: {"traffic": each["traffic"], "shadows": each["shadows"]} for name, each in endpoints.items()}
    return Report(data, _traffic_table(endpoints))


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


def _traffic_table(endpoints: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            name,
            each["route"] or "",
            "every" if _taken(each) == list(ANY_METHOD) else " ".join(each["methods"]),
            _shares(each["traffic"]),
            _shares(each["shadows"]),
        )
        for name, each in endpoints.items()
    ]
    return _table(("endpoint", "route", "methods", "traffic", "shadows"), rows)


def _taken(endpoint: Mapping[str, Any]) -> list[str]:
    """Return the methods that *endpoint* takes: without a route all of them, as handles and adapters pass them on."""
    return list(ANY_METHOD) if endpoint["route"] is None else endpoint["methods"]


def _refused(proxy: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} with {status}" for status, count in (proxy["refused"] or {}).items())
    return f"{proxy['url']} refused requests since its start: {counts}" if counts else ""


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.3g} {backend}" for backend, share in shares.items())


def _unfinished(deployment: Mapping[str, Any]) -> str:
    """Return a line about a deployment that has not ended."""
    how = "runs" if deployment["running"] else "was interrupted" if deployment["failure"] is None else "failed"
    begun, left = (", ".join(deployment[part]) or "nothing" for part in ("begun", "left"))
    why = f". {deployment['failure']}" if deployment["failure"] is not None else ""
    since = _time(deployment["begun_at"])
    return f"deployment of project {deployment['project']} of {since} {how} at: {begun}; not begun: {left}{why}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _deployed(backend: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the project of a backend, its version, and the time of its deployment."""
    if backend["owner"] is None:
        return "by hand", "", ""
    version = backend["version"] or backend["fingerprint"][:8] or "by hand"
    return backend["owner"], version, _time(backend["deployed_at"])


def _counted(states: Iterable[str]) -> str:
    counts = Counter(states)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* under *head*, each column as wide as its widest cell."""
    if not rows:
        return f"no {head[0]}s"
    rows = [[printable(cell) for cell in row] for row in rows]  # a cell is one line
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)
