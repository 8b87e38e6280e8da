"""The backend for drawings, over a WebSocket."""

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
    """Reads a drawing again after each change."""

    def __init__(self) -> None:
        self._model = trained(MOST)

    async def __call__(self, socket: WebSocket) -> None:
        """Answer each message, JSON with `pixels`, until the client disconnects."""
        await socket.accept()
        try:
            async for message in socket.iter_text():
                # On a thread, because a computation on the event loop blocks every other drawing.
                await socket.send_json(await asyncio.to_thread(self.read, message))
        except Unreadable as error:
            await socket.close(UNSUPPORTED, str(error))

    def read(self, message: str) -> dict[str, Any]:
        """Return the digit in a message's pixels.

        Raises:
            Unreadable: The pixels are not a picture.
        """
        try:
            pixels = json.loads(message)["pixels"]
        except (ValueError, KeyError, TypeError):
            raise Unreadable(WANTED) from None
        return guess(self._model, pixels)
