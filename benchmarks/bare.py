"""The no-op application that uvicorn serves without a bridge."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def noop(request: Request) -> Response:
    """Answer at once, as every contender's handler does."""
    return Response(b"ok")


app = Starlette(routes=[Route("/noop", noop)])
