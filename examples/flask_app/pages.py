"""The page: upload a picture, then see the picture and its digit."""

from __future__ import annotations

import base64
from typing import Final

from flask import Blueprint, render_template, request
from werkzeug.exceptions import RequestEntityTooLarge

from examples.pictures import Unreadable
from serve_bridge import ServeBridgeError
from serve_bridge.adapters.flask import ServeBridge

SHOWN: Final = {"image/gif", "image/jpeg", "image/png", "image/webp"}

blueprint = Blueprint("digits", __name__)
bridge = ServeBridge()


@blueprint.get("/")
def upload() -> str:
    """Show the form."""
    return render_template("upload.html")


@blueprint.post("/")
def result() -> str:
    """Call the endpoint as a function, and show the answer.

    An exception of the backend arrives with its own type. An error of the engine is a ServeBridgeError. The error
    handlers below turn both into sentences.
    """
    upload = request.files["image"]
    image = upload.read()
    # `read` is a `def` method. SERVE_BRIDGE_TIMEOUT_S limits the time of the call.
    answer = bridge.get_handle("digits").options(method_name="read").call({"image": image})
    picture = f"data:{upload.mimetype};base64,{base64.b64encode(image).decode()}" if upload.mimetype in SHOWN else None
    return render_template("upload.html", answer=answer, picture=picture)


@blueprint.errorhandler(Unreadable)
def not_a_picture(error: Unreadable) -> tuple[str, int]:
    """Show the reason of the backend."""
    return render_template("upload.html", problem=f"Not read: {error}."), 400


@blueprint.errorhandler(RequestEntityTooLarge)
def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    """Show the size limit."""
    return render_template("upload.html", problem="This picture is too large; 1 MB is the limit."), 413


@blueprint.errorhandler(ServeBridgeError)
def not_available(error: ServeBridgeError) -> tuple[str, int]:
    """Show a sentence about the outage."""
    problem = "The reader is not available. Try again in a moment."
    return render_template("upload.html", problem=problem), error.http_status
