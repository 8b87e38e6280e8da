"""Adapters: each binds one web framework to an instance. Import the one you need; nothing here imports any.

Rule 1: an adapter translates and delegates: a `Bridge` asks the endpoint, the framework carries the answer.
Rule 2: nothing connects before the first request, so an adapter may be set up before a web server forks.
Rule 3: an adapter is found by its name among the entry points of the group `serve_bridge.adapters`, ours as anyone's;
        it is loaded when it is asked for, and one that cannot be loaded harms no other.
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
    """Load `Bridge` on first use: it brings the client along, which an app needs only once it has a bridge."""
    if name != "Bridge":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve_bridge.adapters.bridge.bridge import Bridge

    return Bridge


@runtime_checkable
class Adapter(Protocol):
    """What a package offers in the group `serve_bridge.adapters`; `serve_bridge.testing.AdapterContract` tests it.

    Attributes:
        name: The name of its entry point.
        interface: What its applications are called by.
    """

    @property
    def name(self) -> str:
        """The name of its entry point."""
        ...

    @property
    def interface(self) -> Literal["asgi", "wsgi"]:
        """What its applications are called by."""
        ...

    def application(self, bridge: Bridge, routes: Sequence[RouteSpec]) -> Callable[..., Any]:
        """Return an application of the framework whose *routes* forward their requests over *bridge*.

        The patterns are paths in Starlette's syntax, with parameters such as `{user_id:int}`; `translate` writes them
        in another. Closing *bridge* is the caller's.
        """
        ...


def installed_adapters() -> list[str]:
    """Return the names of the adapters that are installed, sorted; none is loaded."""
    return sorted(entry_points(group=GROUP).names)


def load_adapter(name: str) -> Adapter:
    """Return the adapter called *name*.

    Raises:
        ConfigError: None of that name is installed, or two are; or it cannot be loaded, for want of its framework
            perhaps: the message says what to install.
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
    except Exception as error:  # whatever a module of somebody else's raises when it is imported
        raise ConfigError(
            f"the adapter {point.name!r} ({_place(point)}) cannot be loaded: {type(error).__name__}: {error}"
            f"{_cure(point, error)}"
        ) from error
    if not isinstance(adapter, Adapter):
        raise ConfigError(
            f"the adapter {point.name!r} ({_place(point)}) is no Adapter: it needs name, interface and application(), "
            f"got {shown(adapter)}"
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
