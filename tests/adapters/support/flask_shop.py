"""A Flask app and its backends, as a project has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from flask import Flask, current_app, g

import serve_bridge as serve
from serve_bridge.adapters.flask import ServeBridge, in_app

bridge = ServeBridge(backends=["tests.adapters.support.flask_shop"])
bridge.route("/price/<int:item>", "price")
torn_down: list[str] = []


def create_app(currency: str = "EUR") -> Flask:
    """Return the app."""
    app = Flask(__name__)
    app.config["CURRENCY"] = currency
    app.config.from_prefixed_env()
    bridge.init_app(app)

    @app.teardown_appcontext
    def note(_: Any) -> None:
        torn_down.append(g.get("item", ""))

    return app


@serve.backend("price", surroundings=in_app("tests.adapters.support.flask_shop:create_app('USD')"))
def price(request: Any) -> str:
    """Answer in the app's currency."""
    g.item = str(request.path_params["item"])
    return f"{g.item} {current_app.config['CURRENCY']}"


@serve.backend("prices", surroundings=in_app("tests.adapters.support.flask_shop:create_app('USD')"))
def prices(request: Any) -> Iterator[str]:
    """Stream in the app's currency."""
    for number in range(2):
        yield f"{number} {current_app.config['CURRENCY']}\n"


@serve.backend("aprices", surroundings=in_app("tests.adapters.support.flask_shop:create_app('USD')"))
async def aprices(request: Any) -> AsyncIterator[str]:
    """Stream in the app's currency, on a loop."""
    for number in range(2):
        yield f"{number} {current_app.config['CURRENCY']}\n"
