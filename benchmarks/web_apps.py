"""Row 4: the same view in each framework, once answering by itself and once forwarding to a no-op backend.

Rule 1: both run under the same server with the same workers; nothing but the view differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.calls import Calls
from benchmarks.contenders import Bridge, Caller, free_port
from benchmarks.sites import BODY

GUNICORN = ("gunicorn", "--workers", "1", "--worker-class", "gthread", "--threads", "8", "--log-level", "warning")
UVICORN = ("uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")


class PlainApp:
    """A web app whose view answers by itself."""

    calls: Calls | None = None
    caller: Caller | None = None

    def __init__(self, app: str, server: tuple[str, ...]) -> None:
        self.url: str | None = None
        self._app = f"benchmarks.web_apps:{app}"
        self._command = server
        self._server: subprocess.Popen[bytes] | None = None

    def start(self, directory: Path) -> None:
        """Run the server with one worker."""
        self.serve(directory)

    def serve(self, directory: Path, address: str = "") -> None:
        """Run the server with one worker, whose app finds an instance at *address*."""
        port = free_port()
        if self._command is GUNICORN:
            options = ["--bind", f"127.0.0.1:{port}", f"{self._app}()"]
        else:
            options = ["--port", str(port), "--factory", self._app]
        environment = {**os.environ, **({"SERVE_BRIDGE_ADDRESS": address} if address else {})}
        self._server = subprocess.Popen(
            [sys.executable, "-m", *self._command, *options], cwd=directory, env=environment
        )
        self.url = f"http://127.0.0.1:{port}/noop"

    def stop(self) -> None:
        """End the server and wait for it."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(20)


class BridgedApp(PlainApp):
    """The same app with the view forwarded to one replica on Ray."""

    def __init__(self, app: str, server: tuple[str, ...]) -> None:
        super().__init__(app, server)
        self._bridge = Bridge()

    def start(self, directory: Path) -> None:
        """Start an instance on Ray, then the server."""
        self._bridge.start(directory)
        assert self._bridge.caller is not None
        self.serve(directory, self._bridge.caller.environment["SERVE_BRIDGE_ADDRESS"])

    def stop(self) -> None:
        """End the server, then the instance."""
        super().stop()
        self._bridge.stop()


PlainFlask = partial(PlainApp, "flask_plain", GUNICORN)
BridgedFlask = partial(BridgedApp, "flask_bridged", GUNICORN)
PlainDjango = partial(PlainApp, "django_plain", GUNICORN)
BridgedDjango = partial(BridgedApp, "django_bridged", GUNICORN)
PlainAsyncDjango = partial(PlainApp, "async_django_plain", UVICORN)
BridgedAsyncDjango = partial(BridgedApp, "async_django_bridged", UVICORN)
PlainStarlette = partial(PlainApp, "starlette_plain", UVICORN)
BridgedStarlette = partial(BridgedApp, "starlette_bridged", UVICORN)


# The apps. Each is made in the server's worker: nothing is imported but its own framework.


def flask_plain() -> Any:
    """Return a Flask app with the view."""
    from flask import Flask

    app = Flask("noop")
    app.add_url_rule("/noop", view_func=lambda: BODY, endpoint="noop")
    return app


def flask_bridged() -> Any:
    """Return a Flask app that forwards the view."""
    from flask import Flask

    from serve_bridge.adapters.flask import ServeBridge

    app = Flask("noop")
    app.add_url_rule("/noop", view_func=ServeBridge(app).view("noop"))
    return app


def _django(*, bridged: bool, is_async: bool) -> Any:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        SECRET_KEY="benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["serve_bridge.adapters.django"] if bridged else [],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    )
    django.setup()
    view: Any
    if bridged:
        from serve_bridge.adapters.django import abridge_view, bridge_view

        view = (abridge_view if is_async else bridge_view)("noop")
    elif is_async:

        async def view(request: object) -> HttpResponse:
            return HttpResponse(BODY)
    else:

        def view(request: object) -> HttpResponse:
            return HttpResponse(BODY)

    urlpatterns.append(path("noop", view))
    if is_async:
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


urlpatterns: list[Any] = []


def django_plain() -> Any:
    """Return a Django WSGI application with the view."""
    return _django(bridged=False, is_async=False)


def django_bridged() -> Any:
    """Return a Django WSGI application that forwards the view."""
    return _django(bridged=True, is_async=False)


def async_django_plain() -> Any:
    """Return a Django ASGI application with the view."""
    return _django(bridged=False, is_async=True)


def async_django_bridged() -> Any:
    """Return a Django ASGI application that forwards the view."""
    return _django(bridged=True, is_async=True)


def starlette_plain() -> Any:
    """Return a Starlette app with the route."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def noop(request: object) -> Response:
        return Response(BODY)

    return Starlette(routes=[Route("/noop", noop)])


def starlette_bridged() -> Any:
    """Return a Starlette app that forwards the route."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    from serve_bridge.adapters.starlette import ServeBridge

    return Starlette(routes=[Route("/noop", ServeBridge().forward("noop"))])
