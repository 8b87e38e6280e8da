"""Apps under their web servers that forward everything at one route to the endpoint "transfer"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import serve_bridge as serve
from tests.e2e.support.apps.facts import WORKER
from tests.e2e.support.web_servers import WORKERS, Command, WebServer, gunicorn, uvicorn
from tests.support.waiting import wait_until

_APPS: Final = "tests.e2e.support.apps"
_GTHREAD: Final = ("--worker-class", "gthread", "--threads", "4")
FRONTS: Mapping[str, Command] = {
    "flask": gunicorn(f"{_APPS}.flask_app:app", *_GTHREAD, route="/transfer"),
    "django": gunicorn(f"{_APPS}.django_project.wsgi:application", *_GTHREAD, route="/transfer"),
    "starlette": uvicorn(f"{_APPS}.starlette_app:app", route="/transfer"),
    "django-asgi": uvicorn(f"{_APPS}.django_project.asgi:application", route="/async/transfer"),
}


@contextmanager
def running(name: str, client: serve.Client, log: Path, query: str) -> Iterator[WebServer]:
    """Run one of `FRONTS` until all of its workers have forwarded a request with *query*."""
    command = FRONTS[name]
    with WebServer(command, log, environment={"SERVE_BRIDGE_ADDRESS": client.address}) as server:
        workers: set[str] = set()

        def all_have_forwarded() -> bool:
            workers.add(server.get(f"{command.route}?{query}").headers[WORKER])
            return len(workers) == WORKERS

        wait_until(all_have_forwarded)
        yield server
