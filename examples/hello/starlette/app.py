"""Starlette: start this file with `python app.py`, then open http://127.0.0.1:8000/hello/ada."""

import os

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

import serve_bridge as serve
from serve_bridge.adapters.starlette import ServeBridge


@serve.backend("hello")
def hello(request: serve.ServeRequest) -> dict[str, str]:
    """Greet the name in the path."""
    return {"message": f"Hello, {request.path_params['name']}!"}


# "local" runs the backend in this process. Without it, the route leads to your instance.
bridge = ServeBridge(runtime="local", backends=[hello])
app = Starlette(routes=[Route("/hello/{name}", bridge.forward("hello"))], lifespan=bridge.lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
