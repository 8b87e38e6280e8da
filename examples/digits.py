"""A backend for handwritten digits, and pictures to try it.

The images are scikit-learn's: 8 x 8 pixels from 0 (white) to 16 (black). The last `HELD_OUT` images are never in the
training data.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from starlette.exceptions import HTTPException

import serve_bridge as serve
from examples.pictures import Unreadable

HELD_OUT: Final = 500
SIZE: Final = 8
BLACK: Final = 16
FEW: Final = 60
MOST: Final = 1297
"""Number of training images. With 60 (`FEW`) the model guesses, with 1297 (`MOST`) it reads."""
MOST_PIXELS: Final = 16_000_000
FORMATS: Final = ("GIF", "JPEG", "PNG", "WEBP")
WANTED: Final = f"send a picture as the file `image`, or as `pixels`: {SIZE} lists of {SIZE} numbers"


@serve.backend("digits", route="/digits", methods=["POST"], init_args=[MOST])
class Digits:
    """Reads the digit of an image.

    Args:
        trained_on: Number of training images.
    """

    def __init__(self, trained_on: int) -> None:
        self._model = trained(trained_on)

    def read(self, data: Any) -> dict[str, Any]:
        """Read a dict with `image`, the bytes of a picture, or with `pixels`.

        A `def` method computes on a thread of the replica, so the replica's loop stays free for probes and other
        requests. Handles call it with `method_name="read"`.

        Raises:
            Unreadable: The data is not a picture.
        """
        if not isinstance(data, Mapping):
            raise Unreadable(WANTED)
        return guess(self._model, data["pixels"] if "pixels" in data else pixels_of(data.get("image")))

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer a form with the file `image`, or JSON with `pixels`.

        Only `async def` code can await a body. The computation in `read` runs on a thread.
        """
        try:
            return await asyncio.to_thread(self.read, await _fields_of(request))
        except Unreadable as error:
            raise HTTPException(400, str(error)) from error


async def _fields_of(request: Any) -> Any:
    """Return the fields of the request, with files as bytes."""
    if isinstance(request, serve.ServeRequest) and isinstance(request.data, Mapping):
        return request.data  # from a handle without `method_name`
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            return await request.json()
        except ValueError:
            raise Unreadable(WANTED) from None
    async with request.form() as form:
        return {name: await value.read() if hasattr(value, "read") else value for name, value in form.items()}


def guess(model: Any, pixels: Any) -> dict[str, Any]:
    """Return the digit in *pixels*, the confidence, and the names of replica and backend.

    Raises:
        Unreadable: The pixels are not 8 x 8 numbers.
    """
    try:
        image = np.asarray(pixels, dtype=float).reshape(1, SIZE * SIZE)
    except (ValueError, TypeError, OverflowError):
        raise Unreadable(WANTED) from None
    if not np.isfinite(image).all():
        raise Unreadable(WANTED)
    chances = model.predict_proba(image)[0]
    context = serve.get_replica_context()
    return {
        "digit": int(np.argmax(chances)),
        "confidence": round(float(chances.max()), 3),
        "replica": context.replica,
        "backend": context.backend,
    }


def trained(count: int) -> Any:
    """Return a classifier trained on the first *count* images."""
    digits = load_digits()
    images = digits.images[:count].reshape(count, -1)
    model = KNeighborsClassifier(weights="distance").fit(images, digits.target[:count])
    model.predict_proba(images[:1])  # the first prediction loads libraries, so it happens before the first request
    return model


def pixels_of(data: Any) -> np.ndarray[Any, Any]:
    """Return the pixels of a picture from the bytes of its file.

    Raises:
        Unreadable: The file is not a picture, is damaged, or has too many pixels.
    """
    if not isinstance(data, bytes) or not data:
        raise Unreadable(WANTED)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            # The size stands in the first bytes. A small file may claim a size beyond any memory.
            if picture.width * picture.height > MOST_PIXELS:
                raise Unreadable(f"this picture has {picture.width} x {picture.height} pixels; at most {MOST_PIXELS}")
            drawn = picture.convert("L").resize((SIZE, SIZE))
    except Unreadable:
        raise
    except Exception as error:  # Pillow raises nearly everything for a damaged file
        raise Unreadable("this file is not a picture that can be read") from error
    return np.asarray(drawn, dtype=float) * BLACK / 255


def held_out(count: int = HELD_OUT) -> list[tuple[list[list[float]], int]]:
    """Return *count* images outside the training data, with their digits."""
    digits = load_digits()
    images, labels = digits.images[-HELD_OUT:][:count], digits.target[-HELD_OUT:][:count]
    return [(image.tolist(), int(label)) for image, label in zip(images, labels, strict=True)]


def as_png(pixels: list[list[float]]) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray((np.asarray(pixels) * 255 / BLACK).astype("uint8")).save(file, "PNG")
    return file.getvalue()
