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
"""What a function without a body compiles to, in the versions of Python."""


def with_own_parameters(signature: inspect.Signature) -> inspect.Signature:
    """Return *signature* with parameters that FastAPI fills with the request, and with what it takes for its answer.

    Of each kind the last parameter gets it.
    """
    kinds = {REQUEST_PARAMETER: Request, RESPONSE_PARAMETER: Response}
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in kinds.items()]
    return signature.replace(parameters=[*signature.parameters.values(), *own])


def is_empty(stub: Callable[..., Any]) -> bool:
    """Return whether *stub* has no body but a docstring, `...` or `pass`."""
    instructions = list(dis.get_instructions(stub))
    constants = [each.argval for each in instructions if each.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(each.opname in _EMPTY for each in instructions) and constants.count(None) == len(constants)
