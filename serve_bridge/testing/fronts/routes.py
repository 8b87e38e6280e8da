"""The routes of the contract, which every front serves, and their backends."""

from __future__ import annotations

from typing import Final

from serve_bridge.adapters import RouteSpec
from serve_bridge.client.client import Client
from serve_bridge.testing.subject import Subject

SUBJECT: Final = "contract"
"""The endpoint of all routes but one, and its backend."""
SINGLE: Final = "contract-single"
"""A second endpoint of the same kind. Its backend runs one request at a time, and its queue has one place."""
METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
PIECE: Final = b"0123456789abcdef" * 16 * 1024  # 256 KiB, more than any part of the way may hold back
LONG_BYTES: Final = 15 << 20
HELD_BYTES: Final = 12 << 20
"""Upper limit in bytes for what client, front and backend together may buffer of a body that its receiver does not
read. Most of it is in buffers of the kernel."""

ROUTES: Final = (
    *(
        RouteSpec(path, SUBJECT, METHODS)
        for path in (
            *("/echo", "/typed/{count:int}/{share:float}/{key:uuid}/{name}/{rest:path}", "/echo/{rest:path}"),
            *("/digest", "/form", "/answer", "/nothing", "/lines", "/gated", "/endless", "/hanging", "/upload"),
            *("/early", "/duplex", "/failing", "/broken", "/injecting", "/counted", "/paused", "/silent"),
            *("/mixed", "/buffered", "/large", "/mismatched", "/events"),
        )
    ),
    RouteSpec("/gets", SUBJECT, ("GET",)),
)
"""Routes without options, which the proxy can serve too."""

STREAMED_OR_NOT: Final = {"/lines": "no", "/buffered": "yes", "/echo": None, "/large": None}
"""The header X-Accel-Buffering of answers, by path."""

CLAIMS: Final = {
    "x-forwarded-for": "10.9.8.7",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "evil.example",
    "x-forwarded-prefix": "/evil",
    "x-real-ip": "10.9.8.7",
    "forwarded": "for=10.9.8.7;proto=https;host=evil.example",
}
"""Headers with a client's claims about its origin."""


def deploy_subject(client: Client) -> None:
    """Create the backends of the contract, an endpoint for each, and for the proxy an endpoint at each of `ROUTES`."""
    client.create_backend(SUBJECT, Subject)
    client.create_endpoint(SUBJECT, backend=SUBJECT)
    client.create_backend(SINGLE, Subject, config={"max_concurrent_queries": 1, "max_queued_queries": 1})
    client.create_endpoint(SINGLE, backend=SINGLE)
    for number, route in enumerate(ROUTES):
        client.create_endpoint(
            f"{SUBJECT}-{number}", backend=SUBJECT, route=route.pattern, methods=route.methods or METHODS
        )
