"""A backend that reads handwritten digits, and the pictures to try it with.

The images are scikit-learn's: 8 x 8 pixels from 0 (white) to 16 (black). The last `HELD_OUT`
are never trained on.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from starlette.exceptions import HTTPException

import serve_bridge as serve

HELD_OUT: Final = 500
SIZE: Final = 8
BLACK: Final = 16
FEW: Final = 60
MOST: Final = 1297
"""Images to train on: after 60 it guesses, after 1297 it reads."""


@serve.backend("digits", route="/digits", methods=["POST"], init_args=[MOST])
class Digits:
    """Tells which digit an image shows.

    Args:
        trained_on: How many images to train on.
    """

    def __init__(self, trained_on: int) -> None:
        self._model = trained(trained_on)

    async def __call__(self, request: Any) -> dict[str, Any]:
        """Answer a form with the file `image`, or JSON with `pixels`; from a handle a dict with either."""
        is_json = request.headers.get("content-type", "").startswith("application/json")
        try:
            fields = await (request.json() if is_json else request.form())
            return guess(self._model, fields["pixels"] if "pixels" in fields else await _read(fields["image"]))
        except (ValueError, KeyError, TypeError, UnidentifiedImageError) as error:
            raise HTTPException(400, f"send a file `image`, or JSON with {SIZE} x {SIZE} `pixels`") from error


def guess(model: Any, pixels: Any) -> dict[str, Any]:
    """Return what *pixels* show, and who says so.

    Raises:
        ValueError, TypeError: They are no picture.
    """
    image = np.asarray(pixels, dtype=float).reshape(1, SIZE * SIZE)
    chances = model.predict_proba(image)[0]  # a millisecond: not worth a thread
    context = serve.get_replica_context()
    return {
        "digit": int(np.argmax(chances)),
        "confidence": round(float(chances.max()), 3),
        "replica": context.replica,
        "backend": context.backend,
    }


def trained(count: int) -> Any:
    """Return a classifier that has seen the first *count* images."""
    digits = load_digits()
    images = digits.images[:count].reshape(count, -1)
    model = KNeighborsClassifier(weights="distance").fit(images, digits.target[:count])
    model.predict_proba(images[:1])  # the first answer loads libraries; no user should wait for that
    return model


async def _read(image: Any) -> np.ndarray[Any, Any]:
    """Return the pixels of an uploaded file, or of its bytes."""
    data = image if isinstance(image, bytes) else await image.read()
    drawn = Image.open(io.BytesIO(data)).convert("L").resize((SIZE, SIZE))
    return np.asarray(drawn, dtype=float) * BLACK / 255


def held_out(count: int = HELD_OUT) -> list[tuple[list[list[float]], int]]:
    """Return *count* images that no version has seen, and the digits that they show."""
    digits = load_digits()
    images, labels = digits.images[-HELD_OUT:][:count], digits.target[-HELD_OUT:][:count]
    return [(image.tolist(), int(label)) for image, label in zip(images, labels, strict=True)]


def as_png(pixels: list[list[float]]) -> bytes:
    """Return an image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray((np.asarray(pixels) * 255 / BLACK).astype("uint8")).save(file, "PNG")
    return file.getvalue()
