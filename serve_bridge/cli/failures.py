"""The ends of a command line after an error, the same for all three command lines.

Rule 1: an error within the reach of users is one line on stderr and an exit code. Any other error keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serve_bridge.errors import ConfigError, ServeBridgeError
from serve_bridge.printable import error_text

USER_ERRORS: Final = (ServeBridgeError, ImportError, OSError, TypeError, ValueError)
"""Errors within the reach of users: they come from the command, user code or the machine."""


class Misused(ConfigError):
    """The command line is wrong. The message shows the right form."""


class Stopped(ServeBridgeError):
    """The user pressed Ctrl-C. The message says what the instance still does."""


@dataclass(frozen=True)
class Failure:
    """The end of a command line after an error within the reach of users.

    Attributes:
        text: The line to print.
        code: The exit code: 1 for a failure, 2 for a wrong command line, 130 after Ctrl-C.
    """

    text: str
    code: int


def failure_of(error: BaseException) -> Failure | None:
    """Return the end of a command line after *error*; None: a fault of the library, whose traceback helps."""
    if not isinstance(error, USER_ERRORS):
        return None
    text = error_text(error) or type(error).__name__
    return Failure(text, 2 if isinstance(error, Misused) else 130 if isinstance(error, Stopped) else 1)
