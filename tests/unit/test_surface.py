"""The public names as users read them: signatures, docstrings and completion."""

from __future__ import annotations

import inspect
import typing
from types import FunctionType
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge import api

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
