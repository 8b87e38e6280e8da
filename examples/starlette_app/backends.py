"""What runs outside of the web server: a reader of drawings, which talks over a WebSocket."""

from __future__ import annotations

from starlette.websockets import WebSocket

import serve_bridge as serve
from examples.digits import MOST, guess, trained


@serve.backend("drawing")
class Drawing:
    """Says what a drawing looks like, again for each state of it."""

    def __init__(self) -> None:
        self._model = trained(MOST)

    async def __call__(self, socket: WebSocket) -> None:
        """Answer each message, JSON with `pixels`, until the client leaves."""
        await socket.accept()
        async for state in socket.iter_json():
            await socket.send_json(guess(self._model, state["pixels"]))
