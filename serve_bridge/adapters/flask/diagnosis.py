"""The findings of `flask serve-bridge check`: faults of the app, of its process and of its instance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from flask import Flask

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, forwarded_route_of
from serve_bridge.adapters.flask.flask_bridge import FlaskBridge, project_of
from serve_bridge.cli.report import Report
from serve_bridge.client.client import Client, find_client
from serve_bridge.errors import EndpointNotFound, ServeBridgeError
from serve_bridge.process.gunicorn_timeout import HINT, gunicorn_timeout_s
from serve_bridge.process.monkey_patches import patched_by


class Finding(NamedTuple):
    """One fault.

    Attributes:
        level: "error" if requests fail, "warning" if they may fail.
        text: The fault, and a way to fix it.
    """

    level: Literal["error", "warning"]
    text: str


def diagnose(app: Flask, bridge: FlaskBridge) -> tuple[Report, bool]:
    """Return a report of the findings, and whether one of them is an error."""
    findings = [*_of_process(), *_of_routes(app, bridge), *_of_instance(app, bridge)]
    lines = [f"{each.level}: {each.text}" for each in findings] or ["no problems were found"]
    failed = any(each.level == "error" for each in findings)
    return Report([each._asdict() for each in findings], "\n".join(lines)), failed


def _of_process() -> Iterator[Finding]:
    patch = patched_by()
    if patch is not None:
        yield Finding("error", f"{patch} has replaced the sockets and threads of this process; use real threads")


def _of_routes(app: Flask, bridge: FlaskBridge) -> Iterator[Finding]:
    limit_s = gunicorn_timeout_s()
    for name, route in _forwarded(app).items():
        timeout_s = bridge.timeout_s if route.timeout_s is None else route.timeout_s
        if timeout_s >= limit_s:
            yield Finding(
                "warning",
                f"view {name!r} may wait {timeout_s:g} s, and gunicorn kills a sync worker after {limit_s:g} s; {HINT}",
            )


def _of_instance(app: Flask, bridge: FlaskBridge) -> Iterator[Finding]:
    if bridge.is_local:
        yield Finding("warning", "SERVE_BRIDGE_RUNTIME is 'local': every process of the app runs its own backends")
        return
    try:
        client = find_client(bridge.settings.address, bridge.settings.name)
    except ServeBridgeError as error:
        yield Finding("error", str(error))
        return
    try:
        yield from _of_endpoints(app, client)
        yield from _of_declarations(app, bridge, client)
    finally:
        client.close()


def _of_endpoints(app: Flask, client: Client) -> Iterator[Finding]:
    known = client.list_endpoints()
    for name, route in _forwarded(app).items():
        if route.endpoint not in known:
            missing = EndpointNotFound(route.endpoint, known)
            yield Finding("error", f"view {name!r} forwards to an endpoint that does not exist: {missing}")


def _of_declarations(app: Flask, bridge: FlaskBridge, client: Client) -> Iterator[Finding]:
    if not bridge.settings.backends:
        return
    try:
        changes = client.deploy(*bridge.settings.backends, project=project_of(app), dry_run=True).changes
    except (ServeBridgeError, ImportError, TypeError, ValueError) as error:
        yield Finding("error", f"the backends cannot be deployed: {error}")
        return
    for change in changes:
        yield Finding("warning", f"`flask serve-bridge deploy` would {change}")


def _forwarded(app: Flask) -> dict[str, ForwardedRoute]:
    """Return the forwarded routes of *app* by the names of their views, which decorators may wrap."""
    found = {name: forwarded_route_of(view) for name, view in app.view_functions.items()}
    return {name: route for name, route in found.items() if route is not None}
