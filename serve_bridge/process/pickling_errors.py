"""The exceptions by which a value turns out to have no pickled form.

Any other exception leaves the engine as it is. The time limit of a task queue, for example, can be raised at any line,
and the engine must not swallow it.
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
"""Raised by pickle, or by an object that has no pickled form."""
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
