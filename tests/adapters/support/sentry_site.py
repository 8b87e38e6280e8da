"""A process in which sentry-sdk collects events: web applications of every framework, or replicas.

`python -m tests.adapters.support.sentry_site web ADDRESS` prints as JSON the reports of each application about one
failed request; without an address the backend is inside the process. `... replica` prints an address, waits for a line,
and prints the reports of the process of the replica.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

os.environ["EVENTLET_NO_GREENDNS"] = "yes"  # sentry-sdk imports eventlet, whose DNS does not go with every dnspython

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

import serve_bridge as serve

EVENTS: list[dict[str, Any]] = []


class Collector(Transport):
    """Keeps what sentry-sdk would send."""

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep the envelope's events and transactions."""
        for item in envelope.items:
            if item.type in ("event", "transaction"):
                EVENTS.append(item.payload.json)


@serve.backend("failing", route="/failing/{number:int}")
async def failing(request: Any) -> None:
    """Raise."""
    raise LookupError("a secret\nof two lines")


def collect() -> None:
    """Let sentry-sdk report to `EVENTS`."""
    sentry_sdk.init("http://key@127.0.0.1/1", transport=Collector, traces_sample_rate=1.0)


def reported() -> dict[str, Any]:
    """Return what was reported since the last call: the failures, and the names of the transactions."""
    sentry_sdk.flush()
    events = EVENTS[:]
    EVENTS.clear()
    return {
        "failures": [_summary(event) for event in events if event.get("type") != "transaction"],
        "transactions": [event["transaction"] for event in events if event.get("type") == "transaction"],
    }


def _summary(event: dict[str, Any]) -> dict[str, Any]:
    raised = event.get("exception", {}).get("values", [])
    return {
        "types": [each["type"] for each in raised],
        "template": event.get("logentry", {}).get("message"),
        "transaction": event.get("transaction"),
    }


# web applications


def flask(address: str) -> Callable[[], int]:
    """Return what sends a request to a Flask app."""
    from flask import Flask

    from serve_bridge.adapters.flask import ServeBridge

    app = Flask("site")
    app.config["SERVE_BRIDGE_ADDRESS"] = address
    bridge = ServeBridge()
    bridge.route("/failing/<int:number>", "failing")
    bridge.init_app(app)
    return lambda: app.test_client().get("/failing/7").status_code


def django(address: str) -> Callable[[], int]:
    """Return what sends a request to a Django project."""
    from django.test import Client

    return lambda: Client(raise_request_exception=False).get("/failing/7").status_code


def async_django(address: str) -> Callable[[], int]:
    """Return what sends a request to a Django project under ASGI."""
    from django.core.asgi import get_asgi_application

    return _asgi(get_asgi_application(), "/afailing/7")


def starlette(address: str) -> Callable[[], int]:
    """Return what sends a request to a Starlette app."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    bridge = _asgi_bridge(address)
    return _asgi(Starlette(routes=[Route("/failing/{number:int}", bridge.forward("failing"))]), "/failing/7")


def starlette_mount(address: str) -> Callable[[], int]:
    """Return what sends a request to a bridge that a Starlette app mounts."""
    from starlette.applications import Starlette
    from starlette.routing import Mount

    bridge = _asgi_bridge(address, routes={"/failing/{number:int}": "failing"})
    return _asgi(Starlette(routes=[Mount("/models", bridge)]), "/models/failing/7")


def starlette_middleware(address: str) -> Callable[[], int]:
    """Return what sends a request to a middleware of a Starlette app."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    from serve_bridge.adapters.starlette.extension import ServeBridgeMiddleware

    bridge = _asgi_bridge(address, routes={"/failing/{number:int}": "failing"})
    return _asgi(Starlette(middleware=[Middleware(ServeBridgeMiddleware, bridge=bridge)]), "/failing/7")


def fastapi(address: str) -> Callable[[], int]:
    """Return what sends a request to a stub of a FastAPI app."""
    from fastapi import FastAPI

    bridge = _asgi_bridge(address)
    app = FastAPI()

    @app.get("/failing/{number}")
    @bridge.endpoint("failing")
    async def stub(number: int) -> None: ...

    return _asgi(app, "/failing/7")


def wsgi(address: str) -> Callable[[], int]:
    """Return what sends a request to a plain WSGI bridge behind sentry-sdk's middleware."""
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
    from werkzeug.test import Client

    from serve_bridge.adapters.wsgi.application import ServeBridge

    app = SentryWsgiMiddleware(ServeBridge(address, routes={"/failing/{number:int}": "failing"}))
    return lambda: Client(app).get("/failing/7").status_code


def asgi(address: str) -> Callable[[], int]:
    """Return what sends a request to a plain ASGI bridge behind sentry-sdk's middleware."""
    from sentry_sdk.integrations.asgi import SentryAsgiMiddleware

    return _asgi(SentryAsgiMiddleware(_asgi_bridge(address, routes={"/failing/{number:int}": "failing"})), "/failing/7")


def call_in_a_view(address: str) -> Callable[[], int]:
    """Return what sends a request to a Flask view that calls a handle."""
    from flask import Flask

    from serve_bridge.adapters.flask import ServeBridge

    app = Flask("calls")
    app.config["SERVE_BRIDGE_ADDRESS"] = address
    bridge = ServeBridge(app)

    @app.get("/failing/<int:number>")
    def call_failing(number: int) -> Any:  # its name is that of the transaction
        return bridge.get_handle("failing").call()

    return lambda: app.test_client().get("/failing/7").status_code


def websocket(address: str) -> Callable[[], int]:
    """Return what asks a Starlette app for a WebSocket, whose handshake fails."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.testclient import TestClient, WebSocketDenialResponse

    bridge = _asgi_bridge(address)
    client = TestClient(Starlette(routes=[WebSocketRoute("/failing/{number:int}", bridge.forward("failing"))]))

    def ask() -> int:
        try:
            with client.websocket_connect("/failing/7"):
                return 101
        except WebSocketDenialResponse as denied:
            return denied.status_code

    return ask


def proxy(address: str) -> Callable[[], int]:
    """Return what sends a request to the instance's own proxy."""
    import httpx

    url = serve.connect(address).http_urls[0]
    return lambda: httpx.get(f"{url}/failing/7", trust_env=False, timeout=30).status_code


def _asgi_bridge(address: str, **options: Any) -> Any:
    from serve_bridge.adapters.starlette.extension import ServeBridge

    return ServeBridge(address, **options)


def _asgi(app: Any, path: str) -> Callable[[], int]:
    from starlette.testclient import TestClient

    client = TestClient(app, raise_server_exceptions=False)
    return lambda: client.get(path).status_code


SITES: Mapping[str, Callable[[str], Callable[[], int]]] = {
    made.__name__: made
    for made in (
        *(flask, django, async_django, starlette, starlette_mount, starlette_middleware, fastapi, wsgi, asgi),
        *(websocket, call_in_a_view, proxy),
    )
}


def web(address: str | None) -> None:
    """Print what each site reports of one request; without an address the backend is inside this process."""
    import django
    from django.conf import settings

    client = None if address else start()
    found = address or client.address
    settings.configure(
        SECRET_KEY="tests",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["serve_bridge.adapters.django"],
        DATABASES={},
        ROOT_URLCONF="tests.adapters.support.sentry_urls",
        SERVE_BRIDGE={"ADDRESS": found},
    )
    django.setup()
    told = {}
    for name, make in SITES.items():
        ask = make(found)
        reported()
        status = ask()
        told[name] = {"status": status, **reported()}
    tell(told)
    if client is not None:
        client.shutdown()


def replica() -> None:
    """Print the address of an instance, and after a line of input what its process has reported."""
    client = start()
    tell(client.address)
    sys.stdin.readline()
    tell(reported())
    client.shutdown()


def start() -> serve.Client:
    """Start an instance inside this process, with the backend."""
    client = serve.start(runtime="local", name=f"sentry-{os.getpid()}", http_options={"port": 0})
    serve.deploy(failing)
    return client


def tell(value: Any) -> None:
    """Write *value* to the standard output, as a line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    collect()
    if sys.argv[1] == "web":
        web(sys.argv[2] if len(sys.argv) > 2 else None)
    else:
        replica()
