"""What the bridges of ASGI and WSGI apps share: the options, the routes, and the life of the bridge."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

from serve_bridge.adapters.bridge.patterns import Patterns
from serve_bridge.adapters.bridge.route_spec import parse_routes
from serve_bridge.config import checks
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge
    from serve_bridge.client.client import Client
    from serve_bridge.client.handle import Handle


class BridgeOptions(TypedDict, total=False):
    """Where the instance is, or how one is started.

    Attributes:
        name: Which of this user's instances. Default: "default".
        timeout_s: Seconds a forwarded request may take, where a route says nothing else. Default: 60 on an event
            loop; 25 in a thread, less than the 30 s after which gunicorn kills a worker.
        runtime: "local" starts an instance inside this process on first use, for development and tests.
        backends: What is deployed to an instance that is started here: what `serve_bridge.deploy` takes, which brings
            any other instance to the same by `deploy(*bridge.backends, client=bridge.client)`.
    """

    name: str
    timeout_s: float
    runtime: str | None
    backends: Iterable[Any]


class AppBridge:
    """An app's bridge to an instance, and the routes that it answers by it.

    Args:
        address: What `serve_bridge.connect` takes; None: SERVE_BRIDGE_ADDRESS, else this user's instance.
        routes: What it answers: a dict of paths in Starlette's syntax, each with the name of an endpoint, or with a
            dict of "endpoint", "methods" (default: every one) and the options of `RouteOptions`. None: every route
            of the instance, as the routing table has them at that moment.
        options: See `BridgeOptions`.

    Raises:
        TypeError, ConfigError: An argument is none that it can be; the message names it.
    """

    timeout_s: ClassVar[float]
    """The default of the option."""

    def __init__(
        self,
        address: str | os.PathLike[str] | None = None,
        *,
        routes: Mapping[str, Any] | None = None,
        **options: Unpack[BridgeOptions],
    ) -> None:
        if isinstance(address, Mapping):
            raise TypeError(f"address must be a str, got {shown(address)}; routes go to routes={{...}}")
        unknown = options.keys() - BridgeOptions.__annotations__.keys()
        for name in sorted(unknown):
            raise TypeError(f"unknown option {name!r}{nearest(name, BridgeOptions.__annotations__)}")
        self.backends = checks.listed("backends", options.get("backends", ()))
        # Late: importing an adapter costs no more than its routes need. Here it is loaded before a web server forks.
        from serve_bridge.adapters.bridge.bridge import Bridge

        self._bridge: Bridge = Bridge(
            address,
            name=options.get("name", "default"),
            runtime=options.get("runtime"),
            timeout_s=checks.seconds()("timeout_s", options.get("timeout_s", self.timeout_s)),
            declared=lambda: self.backends,
        )
        self._routes = None if routes is None else Patterns(parse_routes(routes, "routes"))

    @property
    def client(self) -> Client:
        """The client.

        Raises:
            NotConnected: No instance is running where it was looked for.
        """
        return self._bridge.client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for the app to call: `handle.call(...)`, on an event loop `await handle.acall(...)`."""
        return self._bridge.get_handle(endpoint)

    def close(self) -> None:
        """Let go of the instance, and end it if it was started here; the next use connects again."""
        self._bridge.close()

    def patterns(self, routes: Mapping[str, Any] | None) -> Patterns:
        """Return what a middleware forwards: *routes*, or without any the bridge's own.

        Raises:
            TypeError, ConfigError: *routes* is none that it can be, or nothing says what is forwarded.
        """
        patterns = self._routes if routes is None else Patterns(parse_routes(routes, "routes"))
        if patterns is None:
            raise ConfigError("a middleware forwards what it is told to: give it routes={'/path': 'endpoint'}")
        return patterns


def bridge_of(owner: AppBridge) -> Bridge:
    """Return the bridge of *owner*: for parts of this package that need more than the public methods."""
    return owner._bridge
