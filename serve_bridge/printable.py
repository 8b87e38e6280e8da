r"""Text from users and backends, made safe for a terminal, a log and an error.

Rule 1: a control character is replaced by its escape, such as `\x1b`. So no text can move the cursor, change the title,
    ring the bell or begin a line of its own. Characters that reverse the direction of text count as control characters.
Rule 2: text is changed only where it leaves this library for a terminal or a log. Values are never changed.
"""

from __future__ import annotations

import difflib
import logging
import re
import traceback
from collections.abc import Iterable
from typing import Any, Final

__all__ = [
    "CONTROL",
    "LOGGERS",
    "error_text",
    "make_logs_printable",
    "nearest",
    "printable",
    "printable_json",
    "shown",
]

LOGGERS: Final = ("adapters", "client", "controller", "deployment", "forwarding", "proxy", "replica", "router", "wire")
"""Names of the library's loggers below `serve_bridge`."""

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, line and paragraph separators, changes of direction, and surrogates, which UTF-8 cannot encode."""

_CONTROL_IN_LINES: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""As `CONTROL`, without tab and line feed."""

SHOWN_CHARACTERS: Final = 120
"""Upper limit for the repr of a value in an error text, in characters."""


def printable(text: str, *, lines: bool = False) -> str:
    """Return *text* with each control character as an escape. With *lines*, tabs and line feeds stay."""
    return (_CONTROL_IN_LINES if lines else CONTROL).sub(lambda found: repr(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """Return the JSON *text* with each control character inside a string as an escape of JSON."""
    return _CONTROL_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def error_text(error: BaseException) -> str:
    """Return the text of *error* for a terminal."""
    return printable(str(error), lines=True)


def shown(name: object) -> str:
    """Return the repr of a caller's value, cut to `SHOWN_CHARACTERS`."""
    try:
        return f"{name!r:.{SHOWN_CHARACTERS}}"
    except Exception:  # a foreign `__repr__` may raise anything, and Python does not print very long ints
        return f"an object of type {type(name).__qualname__}"


def nearest(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the *known* word nearest to *word*; "" if no word is near."""
    close = difflib.get_close_matches(word[:100], list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {str(close[0])!r}?" if close else ""


class _LogFilter(logging.Filter):
    """Makes the arguments and the traceback of a record printable. The library wrote the template."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record, and let it pass."""
        if isinstance(record.args, tuple):
            record.args = tuple(map(_printable_argument, record.args))
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            if _CONTROL_IN_LINES.search(text):
                record.exc_text = printable(text, lines=True)
        return True


def _printable_argument(argument: Any) -> Any:
    if isinstance(argument, BaseException):
        argument = str(argument)
    # Further lines are indented. Otherwise a line of the text could look like a record of its own.
    return printable(argument, lines=True).replace("\n", "\n    ") if isinstance(argument, str) else argument


def make_logs_printable() -> None:
    """Remove control characters of users and backends from all records of the library's loggers."""
    for name in LOGGERS:  # each logger needs the filter, because a filter does not see the records of child loggers
        logging.getLogger(f"serve_bridge.{name}").addFilter(_FILTER)


_FILTER: Final = _LogFilter()
