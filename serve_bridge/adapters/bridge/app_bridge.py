"""The common part of the bridges of ASGI and WSGI apps: options, routes, and the life of the bridge."""

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
    """Options for finding an instance, or for starting one.

    Attributes:
        name: Name of the instance among those of this user. Default: "default".
        timeout_s: Time limit in seconds of a forwarded request whose route has no `timeout_s`. Default: 60 on an event
            loop; 25 in a thread, less than the 30 s after which gunicorn kills a worker.
        runtime: "local" starts an instance inside this process on first use, for development and tests.
        backends: Modules, declared objects, or import paths of both, as for `serve_bridge.deploy`. The bridge deploys
            them to an instance that it has started. For any other instance call
            `deploy(*bridge.backends, client=bridge.client)`.
    """

    name: str
    timeout_s: float
    runtime: str | None
    backends: Iterable[Any]


class AppBridge:
    """An app's bridge to an instance, with the routes that the app forwards.

    Args:
        address: Address of the instance, as for `serve_bridge.connect`. None: the environment variable
            SERVE_BRIDGE_ADDRESS, otherwise the instance of this user on this machine.
        routes: The routes to forward: a dict of paths in Starlette's syntax, each with the name of an endpoint, or with
            a dict of "endpoint", "methods" (default: every method) and the options of `RouteOptions`. None: all routes
            of the instance, as its routing table has them at the time of a request.
        options: See `BridgeOptions`.

    Raises:
        TypeError, ConfigError: An argument has a wrong type or value; the message names it.
    """

    timeout_s: ClassVar[float]
    """Default of the option `timeout_s`, in seconds."""

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
        self.backends: tuple[Any, ...] = checks.listed("backends", options.get("backends", ()))
        # Late: importing an adapter must not load the client. Here the bridge loads it, before a web server forks.
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
        """The client of the instance.

        Raises:
            NotConnected: No instance is running at the address.
        """
        return self._bridge.client()

    def get_handle(self, endpoint: str) -> Handle:
        """Return a handle for *endpoint*, with `handle.call(...)`, or `await handle.acall(...)` on an event loop."""
        return self._bridge.get_handle(endpoint)

    def close(self) -> None:
        """Disconnect from the instance, and shut it down if the bridge has started it. The next use connects again."""
        self._bridge.close()

    def patterns(self, routes: Mapping[str, Any] | None) -> Patterns:
        """Return the patterns that a middleware forwards: those of *routes*, or of the bridge if *routes* is None.

        Raises:
            TypeError, ConfigError: A route is wrong, or there are no routes.
        """
        patterns = self._routes if routes is None else Patterns(parse_routes(routes, "routes"))
        if patterns is None:
            raise ConfigError("a middleware needs routes to forward: give it routes={'/path': 'endpoint'}")
        return patterns


def bridge_of(owner: AppBridge) -> Bridge:
    """Return the bridge of *owner*: for parts of this package that need more than the public methods."""
    return owner._bridge
