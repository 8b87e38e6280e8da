"""A Flask app with one forwarded route; CALL_AT_IMPORT makes it call the endpoint before any server forks."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, Response

from serve_bridge.adapters.flask import ServeBridge
from tests.e2e.support.apps.facts import WORKER, facts

app = Flask(__name__)
bridge = ServeBridge(app)
app.add_url_rule("/echo/<int:number>", view_func=bridge.view("echo"), methods=["POST"])
app.add_url_rule("/transfer", "transfer", bridge.view("transfer", timeout_header=True), methods=["GET", "POST"])


@app.get("/facts")
def own_facts() -> dict[str, Any]:
    """Answer without the instance."""
    return facts()


@app.after_request
def name_worker(response: Response) -> Response:
    """Say who answers."""
    response.headers[WORKER] = str(os.getpid())
    return response


if "CALL_AT_IMPORT" in os.environ:
    with app.app_context():
        bridge.client.list_endpoints()
