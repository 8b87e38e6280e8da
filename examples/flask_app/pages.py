"""The page: upload a picture, see it and what it shows."""

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
    """Call the endpoint as a function, and show what it says.

    What the backend raises arrives as it is, and what the engine raises is a ServeBridgeError. The handlers below turn
    both into sentences.
    """
    upload = request.files["image"]
    image = upload.read()
    # `read` is a `def` method. The call may take as long as SERVE_BRIDGE_TIMEOUT_S says.
    answer = bridge.get_handle("digits").options(method_name="read").call({"image": image})
    picture = f"data:{upload.mimetype};base64,{base64.b64encode(image).decode()}" if upload.mimetype in SHOWN else None
    return render_template("upload.html", answer=answer, picture=picture)


@blueprint.errorhandler(Unreadable)
def not_a_picture(error: Unreadable) -> tuple[str, int]:
    """Say what the backend has against the file."""
    return render_template("upload.html", problem=f"Not read: {error}."), 400


@blueprint.errorhandler(RequestEntityTooLarge)
def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    """Say what a picture may have."""
    return render_template("upload.html", problem="This picture is too large; 1 MB is the limit."), 413


@blueprint.errorhandler(ServeBridgeError)
def not_available(error: ServeBridgeError) -> tuple[str, int]:
    """Ask for patience."""
    problem = "Nobody can read it now. Try again in a moment."
    return render_template("upload.html", problem=problem), error.http_status
