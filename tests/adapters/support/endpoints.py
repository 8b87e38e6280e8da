"""The endpoints that every front end leads to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

import serve_bridge as serve


async def echo(request: Any) -> dict[str, Any]:
    """Return what of the request arrived."""
    return {
        "method": request.method,
        "path": request.url.path,
        "params": {name: [type(value).__name__, str(value)] for name, value in request.path_params.items()},
        "query": request.query_params.multi_items(),
        "headers": dict(request.headers),
        "body": (await request.body()).decode(),
    }


async def form(request: Any) -> dict[str, Any]:
    """Return the fields and files of a form."""
    async with request.form() as fields:
        return {
            name: value if isinstance(value, str) else [value.filename, (await value.read()).decode()]
            for name, value in fields.items()
        }


def chunks(request: Any) -> Iterator[str]:
    """Stream."""
    for number in range(3):
        yield f"{number}\n" * 50_000


def answer(request: Any) -> Response:
    """Return an answer with a status, headers and cookies of its own."""
    response = Response(b"teapot", 418, headers={"x-own": "1", "x-serve-secret": "2"}, media_type="text/x")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


def failing(request: Any) -> None:
    """Raise."""
    raise RuntimeError("secret")


def forbidden(request: Any) -> None:
    """Raise what has a status of its own."""
    raise HTTPException(403, "not you")


class Counter:
    """Has a method besides `__call__`."""

    def __call__(self, request: Any) -> str:
        """Be called."""
        return "call"

    def add(self, data: Any, by: str = "0") -> Any:
        """Add."""
        return {"sum": data + int(by)}


BACKENDS = (echo, form, chunks, answer, failing, forbidden, Counter)


def create_all(client: serve.Client) -> None:
    """Create a backend and an endpoint for each, at routes that the front ends mirror."""
    for backend in BACKENDS:
        name = backend.__name__.lower()
        route = "/echo/{count:int}/{rest:path}" if name == "echo" else f"/{name}"
        client.create_backend(name, backend)
        client.create_endpoint(name, backend=name, route=route, methods=["GET", "POST", "PUT"])
