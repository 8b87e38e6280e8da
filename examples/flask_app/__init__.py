"""A Flask app with a page that reads an uploaded digit, and a forwarded route for programs."""

from __future__ import annotations

from flask import Blueprint, Flask, render_template, request

from serve_bridge.adapters.flask import ServeBridge

bridge = ServeBridge()
pages = Blueprint("digits", __name__)


@pages.get("/")
def upload() -> str:
    """Show the form."""
    return render_template("upload.html")


@pages.post("/")
def result() -> str:
    """Call the endpoint as a function, and show what it says."""
    image = request.files["image"].read()
    answer = bridge.get_handle("digits").call({"image": image})
    return render_template("upload.html", answer=answer)


def create_app() -> Flask:
    """Return the app; SERVE_BRIDGE_ADDRESS says where the instance is, else it is found by itself."""
    app = Flask(__name__)
    bridge.init_app(app)
    app.register_blueprint(pages)
    # Requests go to the endpoint, and its answers back, as they are.
    app.add_url_rule("/api/digits", view_func=bridge.view("digits"), methods=["POST"])
    return app
