r"""Text from users and backends, made safe for a terminal and a log.

Rule 1: a control character leaves as its escape, such as `\x1b`, so no text can move the cursor, change a title, ring
    the bell or begin a line of its own. Characters that reverse the direction of text count as control characters.
Rule 2: it happens where text leaves this library for a terminal or a log, and nowhere else. Values stay as they are.
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
"""Names of the library's loggers, below `serve_bridge`."""

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL, C1, line and paragraph separators, changes of direction, and surrogates, which UTF-8 cannot encode."""

_CONTROL_IN_LINES: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""The same without tab and line feed."""

SHOWN_CHARACTERS: Final = 120
"""Upper limit for the repr of a value in an error text, in characters."""


def printable(text: str, *, lines: bool = False) -> str:
    """Return *text* with an escape in the place of each control character; with *lines*, tabs and line feeds stay."""
    return (_CONTROL_IN_LINES if lines else CONTROL).sub(lambda found: repr(found[0])[1:-1], text)


def printable_json(text: str) -> str:
    """Return *text*, which is JSON, with JSON's escape in the place of each control character inside a string."""
    return _CONTROL_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def error_text(error: BaseException) -> str:
    """Return the text of *error* for a terminal."""
    return printable(str(error), lines=True)


def shown(name: object) -> str:
    """Return the repr of what a caller sent, cut to a length that fits a log line."""
    try:
        return f"{name!r:.{SHOWN_CHARACTERS}}"
    except Exception:  # a foreign `__repr__`, or an int of more digits than Python prints
        return f"an object of type {type(name).__qualname__}"


def nearest(word: object, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" for the known word nearest to *word*, or nothing if none is near."""
    close = difflib.get_close_matches(word[:100], list(known), n=1) if isinstance(word, str) else []
    return f"; did you mean {str(close[0])!r}?" if close else ""


class _LogFilter(logging.Filter):
    """Makes the arguments and the traceback of a record printable; the template is the library's own."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
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
    # Indented, so that a line of the text cannot pass for a record of its own.
    return printable(argument, lines=True).replace("\n", "\n    ") if isinstance(argument, str) else argument


def make_logs_printable() -> None:
    """Let no record of the library's loggers carry a control character from users or backends."""
    for name in LOGGERS:  # a filter of a logger does not see the records of those below it
        logging.getLogger(f"serve_bridge.{name}").addFilter(_FILTER)


_FILTER: Final = _LogFilter()
