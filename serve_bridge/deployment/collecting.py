"""The declarations of a deployment: those of the given modules and objects, checked against each other."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable
from typing import Any

from serve_bridge.deployment.declaration import Declaration, declaration_of
from serve_bridge.deployment.endpoint_declaration import EndpointDeclaration, endpoints_declared_in
from serve_bridge.errors import ConfigError
from serve_bridge.http.path_params import check_route
from serve_bridge.printable import shown
from serve_bridge.user_code.application import Application
from serve_bridge.user_code.user_modules import import_named


def declared_in(*modules_or_objects: object) -> list[Declaration | EndpointDeclaration]:
    """Return the declarations of modules, functions and classes, in the order of their source, endpoints last.

    Args:
        modules_or_objects: A module, or its import path "package.module", stands for everything defined in it, without
            its imports. A function or class, or its path "package.module:Attr", stands for itself, as does a
            declaration.

    Raises:
        TypeError: An object is neither a module nor declared.
        ConfigError: A path names nothing, a module declares nothing, two declarations have one name, or declarations
            contradict each other.
    """
    found: dict[int, Declaration | EndpointDeclaration] = {}
    for given in modules_or_objects:
        what = _imported(given) if isinstance(given, str) else given
        if isinstance(what, types.ModuleType):
            own = declarations_of(what)
            if not own:
                raise ConfigError(_nothing_declared(what))
        else:
            own = [_declared(what)]
        found.update((id(each), each) for each in own)
    backends = [each for each in found.values() if isinstance(each, Declaration)]
    endpoints = [each for each in found.values() if isinstance(each, EndpointDeclaration)]
    _check_names(backends)
    _check_endpoints(backends, endpoints)
    return [*backends, *endpoints]


def declarations_of(module: types.ModuleType) -> list[Declaration | EndpointDeclaration]:
    """Return what *module* itself declares, without what it has imported; empty if it declares nothing."""
    declarations = (declaration_of(value) for value in list(vars(module).values()))
    own = [each for each in declarations if each is not None and each.code.__module__ == module.__name__]
    backends = [each for index, each in enumerate(own) if each not in own[:index]]  # an object may have two names
    return [*backends, *endpoints_declared_in(module)]


def _nothing_declared(module: types.ModuleType) -> str:
    imported = [each for value in list(vars(module).values()) if (each := declaration_of(value)) is not None]
    if imported:
        return (
            f"module {module.__name__!r} declares nothing, but imports {imported[0].code.__qualname__!r}; "
            f"name the module that declares it, {imported[0].code.__module__!r}"
        )
    return (
        f"module {module.__name__!r} declares nothing: put @serve.backend(...) over a function or class in it, "
        "or leave the module out"
    )


def _imported(path: str) -> Any:
    module, colon, attribute = path.partition(":")
    found = import_named(module)
    if not colon:
        return found
    try:
        return functools.reduce(getattr, attribute.split("."), found)
    except AttributeError as error:
        raise ConfigError(f"{path!r} names nothing: {error}") from None


def _declared(what: object) -> Declaration | EndpointDeclaration:
    declaration = what if isinstance(what, Declaration | EndpointDeclaration) else declaration_of(what)
    if declaration is None:
        raise TypeError(
            f"{shown(what)} is not declared: put @serve.backend(...) over its definition, "
            "or pass the module or the function or class that has it"
        )
    return declaration


def _check_names(declarations: Iterable[Declaration]) -> None:
    seen: dict[str, Declaration] = {}
    for each in declarations:
        first = seen.setdefault(each.name, each)
        if first is not each:
            raise ConfigError(f"backend {each.name!r} is declared twice: by {first.place} and by {each.place}")


def _check_endpoints(backends: Iterable[Declaration], endpoints: Iterable[EndpointDeclaration]) -> None:
    describing: dict[str, Declaration | EndpointDeclaration] = {}
    routes: dict[str, str] = {}
    kinds: dict[str, Declaration] = {}

    def describe(name: str, route: str | None, by: Declaration | EndpointDeclaration) -> None:
        first = describing.setdefault(name, by)
        if first is not by:
            raise ConfigError(
                f"endpoint {name!r} gets a route, methods or a time twice: by {first.place} and by {by.place}; "
                "say it once"
            )
        other = routes.setdefault(route, name) if route is not None else name
        if other != name:
            raise ConfigError(
                f"route {route!r} is declared for two endpoints: {other!r} by {describing[other].place}, "
                f"{name!r} by {by.place}"
            )

    for each in backends:
        kind = kinds.setdefault(each.endpoint, each)
        if isinstance(kind.code, Application) != isinstance(each.code, Application):
            raise ConfigError(
                f"endpoint {each.endpoint!r} has an application and other code behind it: {kind.place} and {each.place}"
            )
        if each.describes_endpoint:
            describe(each.endpoint, each.route, each)
    names: dict[str, EndpointDeclaration] = {}
    for own in endpoints:
        first = names.setdefault(own.name, own)
        if first is not own:
            raise ConfigError(f"endpoint {own.name!r} is declared twice: by {first.place} and by {own.place}")
        if own.describes_endpoint:
            describe(own.name, own.route, own)
        backend_of = kinds.get(own.name)
        if backend_of is None and own.traffic is None:
            raise ConfigError(
                f"endpoint {own.name!r} ({own.place}) has no backend: declare one with endpoint={own.name!r}, "
                "or give it traffic={...}"
            )
        if backend_of is not None and isinstance(backend_of.code, Application):
            if own.methods is not None:
                raise ConfigError(f"{own.place}: methods: an application has methods of its own; leave them out")
            if own.route is not None:
                check_route(own.route, mount=True)
