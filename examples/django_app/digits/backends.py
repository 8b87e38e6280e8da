"""The backends: two versions of the model, and the stream of guesses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

import serve_bridge as serve
from examples.digits import FEW, HELD_OUT, MOST, SIZE, Digits, held_out, trained

RESOURCES: Final = {"num_cpus": 0.25}
V1: Final = "digits:v1"
V2: Final = "digits:v2"


@serve.backend(
    V1,
    endpoint="digits",
    route="/digits",
    methods=["POST"],
    init_args=[FEW],
    num_replicas=2,
    ray_actor_options=RESOURCES,
)
class First(Digits):
    """The first version, with little training."""


@serve.backend(V2, endpoint="digits", init_args=[MOST], num_replicas=2, ray_actor_options=RESOURCES)
class Second(Digits):
    """The next version, with more training. It has no traffic until the operator changes the split."""


# The split of a new instance. Later the operator moves the traffic.
serve.endpoint("digits", traffic={V1: 1})


@serve.backend("guesses", route="/guesses/{number:int}", user_config={"pause_s": 0.3}, ray_actor_options=RESOURCES)
class Guesses:
    """Guesses a digit while more and more rows of its picture are visible."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._model = trained(MOST)
        self._images = [np.asarray(pixels) for pixels, _ in held_out()]

    def reconfigure(self, user_config: dict[str, float]) -> None:
        """Set the seconds between two rows: `pause_s`."""
        self._pause_s = user_config["pause_s"]

    async def __call__(self, request: Any) -> StreamingResponse:
        """Answer with server-sent events: one for each row, and `done`."""
        number = request.path_params["number"]
        if number >= HELD_OUT:
            raise HTTPException(404, f"there are {HELD_OUT} pictures")
        return StreamingResponse(self._events(self._images[number]), media_type="text/event-stream")

    def _chances(self, seen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        chances: np.ndarray[Any, Any] = self._model.predict_proba(seen.reshape(1, -1))[0]
        return chances

    async def _events(self, image: np.ndarray[Any, Any]) -> AsyncIterator[str]:
        seen = np.zeros_like(image)
        for row in range(SIZE):
            seen[row] = image[row]
            # On a thread, because the event loop also sends other streams.
            chances = await asyncio.to_thread(self._chances, seen)
            guess = {"pixels": image[row].tolist(), "digit": int(chances.argmax()), "confidence": float(chances.max())}
            yield f"data: {json.dumps(guess)}\n\n"
            await asyncio.sleep(self._pause_s)
        yield "event: done\ndata:\n\n"
