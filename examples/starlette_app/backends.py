"""What runs outside of the web server: a reader of drawings, which talks over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from starlette.websockets import WebSocket

import serve_bridge as serve
from examples.digits import MOST, WANTED, guess, trained
from examples.pictures import Unreadable

UNSUPPORTED: Final = 1003
"""The close code for data of a wrong kind."""


@serve.backend("drawing")
class Drawing:
    """Says what a drawing looks like, again for each state of it."""

    def __init__(self) -> None:
        self._model = trained(MOST)

    async def __call__(self, socket: WebSocket) -> None:
        """Answer each message, JSON with `pixels`, until the client leaves."""
        await socket.accept()
        try:
            async for message in socket.iter_text():
                # On a thread: a model that computes on the loop would hold up every other drawing.
                await socket.send_json(await asyncio.to_thread(self.read, message))
        except Unreadable as error:
            await socket.close(UNSUPPORTED, str(error))

    def read(self, message: str) -> dict[str, Any]:
        """Return what a message's pixels show.

        Raises:
            Unreadable: They are not a picture.
        """
        try:
            pixels = json.loads(message)["pixels"]
        except (ValueError, KeyError, TypeError):
            raise Unreadable(WANTED) from None
        return guess(self._model, pixels)
