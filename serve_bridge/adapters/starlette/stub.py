"""The stub of a path operation: a signature without a body."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

REQUEST_PARAMETER: Final = "serve_bridge_request"
"""Parameter that FastAPI fills with the request."""
RESPONSE_PARAMETER: Final = "serve_bridge_response"
"""Parameter that FastAPI fills with the response from which it takes status and headers."""

_EMPTY: Final = frozenset(
    [
        *("RESUME", "NOP", "COPY_FREE_VARS", "MAKE_CELL", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"),
        *("RETURN_GENERATOR", "POP_TOP", "CALL_INTRINSIC_1", "RERAISE"),
    ]
)
"""Instructions of a function without a body, in all supported versions of Python."""


def with_own_parameters(signature: inspect.Signature) -> inspect.Signature:
    """Return *signature* with two more parameters, which FastAPI fills with the request and the response.

    They come last, because FastAPI fills only the last parameter of each type.
    """
    kinds = {REQUEST_PARAMETER: Request, RESPONSE_PARAMETER: Response}
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in kinds.items()]
    return signature.replace(parameters=[*signature.parameters.values(), *own])


def _raises_not_implemented(instruction: dis.Instruction) -> bool:
    """Return whether *instruction* is one of those that `raise NotImplementedError` compiles to."""
    if instruction.opname in ("LOAD_GLOBAL", "LOAD_COMMON_CONSTANT"):
        return instruction.argval in ("NotImplementedError", NotImplementedError)
    return instruction.opname == "RAISE_VARARGS"


def is_empty(stub: Callable[..., Any]) -> bool:
    """Return whether *stub* has no body but a docstring, `...`, `pass` or `raise NotImplementedError`."""
    instructions = [each for each in dis.get_instructions(stub) if not _raises_not_implemented(each)]
    constants = [each.argval for each in instructions if each.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(each.opname in _EMPTY for each in instructions) and constants.count(None) == len(constants)
