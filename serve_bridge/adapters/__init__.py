"""Adapters: each binds one web framework to an instance. Import the adapter of your framework; this package loads none.

Rule 1: an adapter translates and delegates: a `Bridge` asks the endpoint, the framework sends the answer.
Rule 2: nothing connects before the first request, so an adapter may be set up before a web server forks.
Rule 3: adapters are entry points of the group `serve_bridge.adapters`, those of this package too. `load_adapter` finds
        an adapter by name and imports only that one, so a broken adapter does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute, RouteOptions
from serve_bridge.adapters.bridge.outcome import Outcome, report
from serve_bridge.adapters.bridge.patterns import translate
from serve_bridge.adapters.bridge.route_spec import RouteSpec
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge

__all__ = [
    "Adapter",
    "Bridge",
    "ForwardedRoute",
    "Outcome",
    "RouteOptions",
    "RouteSpec",
    "installed_adapters",
    "load_adapter",
    "report",
    "translate",
]

GROUP: Final = "serve_bridge.adapters"


def __getattr__(name: str) -> Any:
    """Load `Bridge` on first use, because it loads the client, which an app needs only once it has a bridge."""
    if name != "Bridge":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_bridge.adapters.bridge.bridge import Bridge

    return Bridge


@runtime_checkable
class Adapter(Protocol):
    """An entry point of the group `serve_bridge.adapters`; `serve_bridge.testing.AdapterContract` tests it.

    Attributes:
        name: The name of the entry point.
        interface: The interface of the applications: "asgi" or "wsgi".
    """

    @property
    def name(self) -> str:
        """The name of the entry point."""
        ...

    @property
    def interface(self) -> Literal["asgi", "wsgi"]:
        """The interface of the applications."""
        ...

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Callable[..., Any]:
        """Return an application of the framework that forwards the requests of *routes* over *bridge*.

        The patterns are paths in Starlette's syntax, with parameters such as `{user_id:int}`. `translate` converts them
        to the syntax of another framework. The caller closes *bridge*.
        """
        ...


def installed_adapters() -> list[str]:
    """Return the names of the installed adapters, sorted, without loading an adapter."""
    return sorted(entry_points(group=GROUP).names)


def load_adapter(name: str) -> Adapter:
    """Return the adapter called *name*.

    Raises:
        ConfigError: No adapter or more than one has the name, or the adapter cannot be loaded. If a module is missing,
            such as the framework, the message says how to install it.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        known = installed_adapters()
        raise ConfigError(
            f"no adapter {shown(name)} is installed{nearest(name, known)}; installed: {', '.join(known) or 'none'}; "
            f"install a package with an entry point of that name in the group {GROUP!r}, "
            "or take 'asgi' or 'wsgi', which suit every application of that interface"
        )
    if len({point.value for point in found}) > 1:
        raise ConfigError(f"two adapters are called {name!r}: {' and '.join(map(_place, found))}; remove one of them")
    return _load(found[0])


def _load(point: EntryPoint) -> Adapter:
    try:
        adapter = point.load()
    except Exception as error:  # the import of a foreign module may raise any exception
        raise ConfigError(
            f"the adapter {point.name!r} ({_place(point)}) cannot be loaded: {type(error).__name__}: {error}"
            f"{_cure(point, error)}"
        ) from error
    if not isinstance(adapter, Adapter):
        raise ConfigError(
            f"the adapter {point.name!r} ({_place(point)}) is not an Adapter: it needs name, interface and "
            f"application(), got {shown(adapter)}"
        )
    return adapter


def _place(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist is not None else 'an unknown package'}"


def _cure(point: EntryPoint, error: Exception) -> str:
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if point.dist is None or not missing or missing == point.module.partition(".")[0]:
        return ""
    extras = point.dist.metadata.get_all("Provides-Extra") or []
    wanted = f"{point.dist.name}[{missing}]" if missing in extras else missing
    return f"; pip install '{wanted}'"
