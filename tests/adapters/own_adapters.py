"""TEMPORARY: moves to the ends of the adapters' modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from flask import Flask
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp

from serve_bridge.adapters import Bridge, RouteSpec, translate
from serve_bridge.adapters import asgi as generic_asgi
from serve_bridge.adapters.asgi import ForwardingApp, ServeBridge, Patterns
from serve_bridge.adapters.route import ForwardedRoute


class ASGIAdapter:
    """Applications of no framework."""

    name = "asgi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> ASGIApp:
        """Return an application that answers *routes*."""
        owner = ServeBridge(routes={})
        owner._bridge, owner._routes = bridge, Patterns(routes)
        return owner


class StarletteAdapter:
    """Applications of Starlette."""

    name = "starlette"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Starlette:
        """Return an application whose routes forward."""
        listed: list[BaseRoute] = []
        for route in routes:
            app = ForwardingApp(bridge, ForwardedRoute(route.endpoint, route.options))
            listed.append(Route(route.pattern, app, methods=route.methods))
            listed.append(WebSocketRoute(route.pattern, app))
        return Starlette(routes=listed)


class FlaskAdapter:
    """Applications of Flask."""

    name = "flask"
    interface: Literal["wsgi"] = "wsgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Flask:
        """Return an application whose rules forward."""
        from serve_bridge.adapters import flask

        app = Flask("serve_bridge")
        extension = flask.ServeBridge(app)
        app.extensions["serve_bridge"] = bridge
        syntax = {"str": "<string:{}>", **{kind: f"<{kind}:{{}}>" for kind in ("int", "float", "path", "uuid")}}
        for number, route in enumerate(routes):
            view = extension.view(route.endpoint, **route.options)
            app.add_url_rule(translate(route.pattern, syntax), str(number), view, methods=route.methods)
        return app


class FastAPIAdapter:
    name = "fastapi"
    interface: Literal["asgi"] = "asgi"

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Any:
        from fastapi import FastAPI

        app = FastAPI()
        app.router.routes.extend(StarletteAdapter().application(bridge, routes).routes)
        return app
