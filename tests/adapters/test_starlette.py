"""What is special to Starlette."""

from __future__ import annotations

from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import serve_bridge as serve
from serve_bridge.adapters.starlette import ServeBridge
from tests.adapters.asgi_transport import asgi_client


def test_a_mount_answers_the_instances_routes(starlette_front: httpx.Client) -> None:
    """Below its prefix, with typed parameters and the whole path."""
    seen = starlette_front.get("/all/echo/5/x").json()
    assert seen["params"]["count"] == ["int", "5"]
    assert seen["path"] == "/all/echo/5/x"


def test_a_mount_knows_paths_and_methods(starlette_front: httpx.Client) -> None:
    """404 and 405 are the application's."""
    assert starlette_front.get("/all/nothing").status_code == 404
    assert starlette_front.delete("/all/form").status_code == 405


def test_the_applications_handlers_shape_the_errors(engine: serve.Client) -> None:
    """Errors are Starlette's HTTPException."""
    bridge = ServeBridge(engine.address)

    async def not_found(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"ours": True}, 404)

    app = Starlette(routes=[Route("/x", bridge.forward("missing"))], exception_handlers={404: not_found})
    with asgi_client(app) as http:
        assert http.get("/x").json() == {"ours": True}
    bridge.close()


def test_a_handle_is_awaited_in_a_route(engine: serve.Client) -> None:
    """On the application's own loop."""
    bridge = ServeBridge(engine.address)

    async def add(request: Request) -> Any:
        handle = bridge.get_handle("counter").options(method_name="add")
        return JSONResponse(await handle.acall(4, by="1"))

    with asgi_client(Starlette(routes=[Route("/x", add)])) as http:
        assert http.get("/x").json() == {"sum": 5}
    bridge.close()


def test_no_instance_is_a_503(tmp_path: Any) -> None:
    """With a time to come back."""
    bridge = ServeBridge(str(tmp_path / "none.json"))
    with asgi_client(Starlette(routes=[Route("/x", bridge.forward("echo"))])) as http:
        answer = http.get("/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
