"""Forwarding of requests over WSGI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from serve_bridge.adapters.bridge.outcome import Outcome, report
from serve_bridge.adapters.bridge.patterns import Match
from serve_bridge.adapters.environ import body_of, scope_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from serve_bridge.adapters.bridge.bridge import Bridge


@dataclass(frozen=True, slots=True)
class WebRequest:
    """The request object for the `context` of a route.

    Attributes:
        environ: The WSGI environment of the request. `{"user": "environ.REMOTE_USER"}` names a key of it.
    """

    environ: Mapping[str, Any]


def forward_over_wsgi(
    bridge: Bridge, found: Match, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    """Forward the request of *environ* to the route in *found*, and return the body of the answer."""
    method = environ["REQUEST_METHOD"]
    outcome = bridge.ask(found.route, scope_of(environ), found.path_params, body_of(environ), WebRequest(environ))
    report(outcome)
    return send_outcome(outcome, method, start_response)


def send_outcome(outcome: Outcome, method: str, start_response: StartResponse) -> Iterable[bytes]:
    """Start the answer of *outcome* to a request of *method*, and return its body."""
    start_response(_status_line(outcome.status), outcome.text_headers)
    if method == "HEAD":
        if not isinstance(outcome.body, bytes):
            outcome.body.close()
        return iter((b"",))  # an iterator: of a list or of nothing, servers would compute a Content-Length of 0
    return [outcome.body] if isinstance(outcome.body, bytes) else outcome.body


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
