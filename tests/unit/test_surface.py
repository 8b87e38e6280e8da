"""The public names as users read them: signatures, docstrings and completion."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import typing
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge import api
from serve_bridge.config.backend_config import BackendOptions
from serve_bridge.config.deploy_options import DeployOptions
from serve_bridge.config.http_options import HTTPOptionsDict
from serve_bridge.config.start_options import StartOptions
from serve_bridge.instance import instance_status
from serve_bridge.management import status_dicts

FUNCTIONS = {name: each for name, each in vars(api).items() if isinstance(each, FunctionType) and name in serve.__all__}
OF_CLIENT = sorted(FUNCTIONS.keys() - {"start", "connect"})
OF_PROCESS = {"client"}
"""Parameters that only the functions have: a method has its client already."""


def signature(function: Any) -> list[inspect.Parameter]:
    """Return the parameters of a function or method, without its client."""
    parameters = inspect.signature(function).parameters.values()
    return [each for each in parameters if each.name not in ("self", *OF_PROCESS)]


@pytest.mark.parametrize("name", OF_CLIENT)
def test_a_client_has_the_same_method(name: str) -> None:
    """With the same parameters, annotations and result."""
    method = getattr(serve.Client, name)
    assert signature(FUNCTIONS[name]) == signature(method)
    assert inspect.signature(FUNCTIONS[name]).return_annotation == inspect.signature(method).return_annotation


@pytest.mark.parametrize("name", OF_CLIENT)
def test_a_client_has_the_same_overloads(name: str) -> None:
    """Type checkers see these, and not the signature."""
    functions = [signature(each) for each in typing.get_overloads(FUNCTIONS[name])]
    assert functions == [signature(each) for each in typing.get_overloads(getattr(serve.Client, name))]


def words(doc: str | None) -> list[str]:
    """Return the words of a docstring, without the parameters of functions alone. How lines wrap does not count."""
    return re.sub(rf"\n +({'|'.join(OF_PROCESS)}): .*", "", doc or "").split()


@pytest.mark.parametrize("name", OF_CLIENT)
def test_a_client_has_the_same_docstring(name: str) -> None:
    """The function's own parameter apart."""
    assert words(inspect.getdoc(FUNCTIONS[name])) == words(inspect.getdoc(getattr(serve.Client, name)))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_function_is_documented_in_full(name: str) -> None:
    """Each parameter, each option, and what it raises."""
    doc = inspect.getdoc(FUNCTIONS[name]) or ""
    parameters = [each.name for each in inspect.signature(FUNCTIONS[name]).parameters.values()]
    assert [each for each in parameters if f"\n    {each}: " not in doc and f"- {each} (" not in doc] == []
    assert "See `" not in doc
    assert name == "shutdown" or "\nRaises:\n" in doc


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_signature_shows_types_as_they_are_written(name: str) -> None:
    """The options of a TypedDict too, whose annotations Python wraps."""
    assert "ForwardRef" not in str(inspect.signature(FUNCTIONS[name]))


@pytest.mark.parametrize("config", [serve.BackendConfig, serve.HTTPOptions])
def test_the_signature_of_a_config_shows_its_options(config: Any) -> None:
    """With their defaults, for `help` and notebooks."""
    shown = inspect.signature(config).parameters
    assert {name: each.default for name, each in shown.items()} == {each.name: each.default for each in fields(config)}


@pytest.mark.parametrize(
    ("config", "options"), [(serve.BackendConfig, BackendOptions), (serve.HTTPOptions, HTTPOptionsDict)]
)
def test_the_dict_of_a_config_has_its_options(config: Any, options: Any) -> None:
    """With the same types, so that a type checker takes one for the other."""
    assert options.__annotations__.keys() == {each.name for each in fields(config)}
    assert {name: each.__forward_arg__ for name, each in options.__annotations__.items()} == {
        each.name: each.type for each in fields(config)
    }


@pytest.mark.parametrize(
    ("function", "options"),
    [(serve.start, StartOptions), (serve.deploy, DeployOptions), (serve.backend, BackendOptions)],
)
def test_the_signature_of_a_function_shows_its_options(function: Any, options: Any) -> None:
    """Each as a keyword argument with a default."""
    parameters = inspect.signature(function).parameters
    shown = {
        name for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY and each.default is not each.empty
    }
    assert shown >= options.__annotations__.keys()


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (serve.start, {"nam": "x"}, r"start\(\) has no option 'nam'; did you mean 'name'"),
        (serve.deploy, {"prun": True}, r"deploy\(\) has no option 'prun'; did you mean 'prune'"),
        (serve.backend, {"num_replica": 2}, r"backend\(\) has no option 'num_replica'; did you mean 'num_replicas'"),
    ],
)
def test_a_misspelt_option_is_named_with_the_nearest(function: Any, given: Any, message: str) -> None:
    """At run time, where no type checker was asked."""
    client = {"client": serve.Client(None)} if function is serve.deploy else {}
    with pytest.raises(TypeError, match=message):
        function(**client, **given)


@pytest.mark.parametrize("kind", [each for each in vars(instance_status).values() if is_dataclass(each)])
def test_the_dict_of_a_status_has_its_fields(kind: Any) -> None:
    """With the same types."""
    shown = getattr(status_dicts, kind.__name__.replace("Status", "StatusDict"))
    types = {each.name: re.sub(r"(\w+)Status\b", r"\1StatusDict", str(each.type)) for each in fields(kind)}
    assert {name: each.__forward_arg__ for name, each in shown.__annotations__.items()} == types


def test_only_public_names_are_listed_after_everything_was_used() -> None:
    """The modules of the package become its attributes, and an interpreter would complete them."""
    program = (
        "import sys, serve_bridge as serve\n"
        "from tests.behaviour.support import backends\n"
        "client = serve.start(runtime='local', name='surface', http_options={'location': None})\n"
        "client.deploy(serve.backend('a')(backends.version_1))\n"
        "client.shutdown()\n"
        "print(*(name for name in dir(serve) if name not in serve.__all__ and not name.startswith('__')))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"


def test_a_client_shows_what_users_need() -> None:
    """What only the library uses belongs to its link."""
    methods = {*OF_CLIENT, "close"}
    properties = {"address", "generation", "http_urls", "lost", "name"}
    assert {name for name in dir(serve.Client) if not name.startswith("_")} == methods | properties
