"""An endpoint declared on its own, `serve.endpoint(...)`, beside its backends.

Rule 1: a declaration starts nothing. Its module keeps it, because no object of the module need hold it.
Rule 2: a wrong option is an error in its own line, not in the deployment.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypedDict, Unpack

from serve_bridge.config.checks import optional, seconds
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError
from serve_bridge.http.methods import Methods, checked_methods
from serve_bridge.http.path_params import check_route
from serve_bridge.printable import nearest, shown
from serve_bridge.traffic import TrafficPolicy

__all__ = ["EndpointDeclaration", "endpoint", "endpoints_declared_in"]

_MARK: Final = "__serve_bridge_endpoints__"
_check_timeout: Final = optional(seconds())


class _NoOptions(TypedDict):
    """No further option: a type checker reports every other name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EndpointDeclaration:
    """The checked arguments of `serve.endpoint`.

    Attributes:
        name: The endpoint's name.
        route: Its path over HTTP; None: it has none.
        methods: Its HTTP methods; None: GET, or all methods of an application.
        timeout_s: Time limit of a request in seconds; None: only callers have a limit.
        traffic: Weight of each backend; None: not declared.
        shadows: Share of the requests to copy, for each backend; None: not declared.
        module: Name of its module.
        line: Number of its line in the file of the module.
    """

    name: str
    route: str | None
    methods: tuple[str, ...] | None
    timeout_s: float | None
    traffic: Mapping[str, float] | None
    shadows: Mapping[str, float] | None
    module: str
    line: int
    code: types.CodeType = field(repr=False)

    @property
    def describes_endpoint(self) -> bool:
        """Whether it declares the route, HTTP methods or time limit; otherwise a backend of the endpoint may."""
        return self.route is not None or self.methods is not None or self.timeout_s is not None

    @property
    def place(self) -> str:
        """The place of the declaration, for messages."""
        return f"serve.endpoint in {self.module}, line {self.line}"


def endpoint(
    name: str,
    *,
    route: str | None = None,
    methods: Methods | None = None,
    timeout_s: float | None = None,
    traffic: Mapping[str, float] | None = None,
    shadows: Mapping[str, float] | None = None,
    **unknown: Unpack[_NoOptions],
) -> EndpointDeclaration:
    """Declare an endpoint beside its backends. `deploy` creates it. A module need not keep the result.

    ::

        serve.endpoint("mood", route="/mood", methods=["POST"], traffic={"mood": 0.9, "mood:v2": 0.1})

    Args:
        name: The endpoint's name, which backends name with `@serve.backend(endpoint=...)`.
        route: A Starlette path such as "/api/{user_id:int}"; None: Python callers only. For an application it is a
            prefix.
        methods: HTTP methods; None: GET, or all methods of an application.
        timeout_s: Time limit of a request in seconds, for every caller; None: only callers have a limit.
        traffic: Weight of each backend, at least 0; the weights sum to 1. The weights apply when the endpoint is
            created, and later with `deploy(traffic=True)`. None: all traffic goes to the endpoint's only backend.
        shadows: Share of the requests to copy, from 0 to 1, for each backend. It applies when `traffic` does.

    Returns:
        The declaration. `deploy` accepts it too.

    Raises:
        TypeError: An option is unknown, or has a value of the wrong type.
        ConfigError: An option has a bad value, or the module has declared this endpoint already. It is a ValueError.
    """
    for option in unknown:
        known = [each for each in inspect.signature(endpoint).parameters if each != "unknown"]
        raise TypeError(f"endpoint() has no option {shown(option)}{nearest(option, known)}")
    caller = sys._getframe(1)
    if route is not None:
        check_route(route)
    declaration = EndpointDeclaration(
        name=check_name("endpoint", name),
        route=route,
        methods=None if methods is None else checked_methods(methods),
        timeout_s=_check_timeout("timeout_s", timeout_s),
        traffic=None if traffic is None else TrafficPolicy.split(traffic).weights,
        shadows=None if shadows is None else _checked_shadows(shadows),
        module=caller.f_globals.get("__name__", "__main__"),
        line=caller.f_lineno,
        code=caller.f_code,
    )
    if caller.f_code.co_name == "<module>":
        _keep(declaration, caller.f_globals.setdefault(_MARK, {}))
    return declaration


def endpoints_declared_in(module: types.ModuleType) -> list[EndpointDeclaration]:
    """Return the endpoints of *module*: those declared at its top level, or by a function whose result it keeps."""
    named = [each for each in vars(module).values() if isinstance(each, EndpointDeclaration)]
    kept = {id(each): each for each in [*vars(module).get(_MARK, {}).values(), *named]}
    return [each for each in kept.values() if each.module == module.__name__]


def _checked_shadows(shadows: Any) -> Mapping[str, float]:
    if not isinstance(shadows, Mapping):
        raise TypeError(f"shadows must be a dict of shares by backend, got {shown(shadows)}")
    return TrafficPolicy({"-": 1.0}, shadows).shadows


def _keep(declaration: EndpointDeclaration, kept: dict[str, EndpointDeclaration]) -> None:
    first = kept.get(declaration.name)
    # A reloaded module and a repeated cell of a notebook have another code object, so their declarations replace the
    # old ones.
    if first is not None and first.code is declaration.code and first.line != declaration.line:
        raise ConfigError(
            f"endpoint {declaration.name!r} is declared twice: by {first.place} and by {declaration.place}"
        )
    kept[declaration.name] = declaration
