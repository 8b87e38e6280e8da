"""The exceptions by which pickling or unpickling fails.

The engine does not catch others. The time limit of a task queue, for example, can be raised at any line.
"""

from __future__ import annotations

import pickle
import struct
from typing import Final

__all__ = ["PICKLING_ERRORS", "UNPICKLING_ERRORS"]

PICKLING_ERRORS: Final = (
    pickle.PickleError,
    AttributeError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Raised by pickle, or by an object without a pickled form."""
UNPICKLING_ERRORS: Final = (
    *PICKLING_ERRORS,
    ArithmeticError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    struct.error,
)
"""Raised by pickle, or by an object that cannot be rebuilt in this process."""
