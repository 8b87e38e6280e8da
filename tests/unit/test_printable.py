"""Text from users and backends loses its control characters on its way to a terminal or a log."""

from __future__ import annotations

import json
import logging
import re
import traceback
import unicodedata
from pathlib import Path

import pytest

import serve_bridge
from serve_bridge.errors import BackendError, BackendStartError
from serve_bridge.printable import CONTROL, LOGGERS, printable, printable_json, shown
from serve_bridge.wire import failure

PACKAGE = Path(serve_bridge.__file__).parent


@pytest.mark.parametrize("category", ["Cc", "Zl", "Zp", "Cs"])
def test_every_control_character_is_known(category: str) -> None:
    """The whole of the Unicode categories, without a list of our own."""
    missed = [
        code for code in range(0x110000) if unicodedata.category(chr(code)) == category and not CONTROL.match(chr(code))
    ]
    assert missed == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü 漢字 🙂 \u200f", "plain äöü 漢字 🙂 \u200f"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x85\x9b\x7f", r"\x85\x9b\x7f"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\udc80", r"\udc80"),
    ],
)
def test_control_characters_become_escapes(text: str, shown: str) -> None:
    """All other text stays as it is."""
    assert printable(text) == shown


def test_lines_may_stay_lines() -> None:
    """Text of several lines keeps line feeds and tabs, and nothing else."""
    assert printable("a\n\tb\r\x0b", lines=True) == "a\n\tb\\r\\x0b"


def test_json_stays_json() -> None:
    """The escapes are JSON's, so a program reads the same value."""
    value = {"\x7f": ["\x9b\u2028\udc80"]}
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(shown) == value
    assert shown.isascii()


def test_every_logger_of_the_library_is_listed() -> None:
    """The filter stands on each logger, since those above see no records of those below."""
    named = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r'getLogger\("serve_bridge\.(\w+)', path.read_text())
    }
    assert named == set(LOGGERS)


def test_a_log_line_holds_no_control_character_of_an_argument(caplog: pytest.LogCaptureFixture) -> None:
    """Neither a text nor an exception writes to the terminal; a second line is indented."""
    logger = logging.getLogger("serve_bridge.proxy")
    logger.warning("request %s: %s", "a\x1b[2J", ValueError("x\x07\nERROR forged"))
    assert caplog.messages == ["request a\\x1b[2J: x\\x07\n    ERROR forged"]


def test_a_logged_traceback_holds_no_control_character(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception appears in its traceback."""
    try:
        raise ValueError("x\x1b[2J")
    except ValueError:
        logging.getLogger("serve_bridge.replica").exception("it failed")
    assert "ValueError: x\\x1b[2J" in caplog.text
    assert "\x1b" not in caplog.text


def test_a_printed_traceback_of_the_replica_holds_no_control_character() -> None:
    """Python prints it below the error; the attribute keeps the text as it came."""
    error = BackendError("E", "why", "Traceback\n  x\x1b[2J")
    assert error.remote_traceback == "Traceback\n  x\x1b[2J"
    assert "Traceback\n  x\\x1b[2J" in "".join(traceback.format_exception(error))
    assert str(BackendStartError("b", "why", "x\x07")).endswith("\nIn the replica:\nx\\x07")


def test_the_cause_of_a_users_error_holds_no_control_character() -> None:
    """It is the traceback of the replica."""
    try:
        raise LookupError("x\x1b[2J")
    except LookupError as raised:
        error = failure.unpack(failure.pack(raised))
    assert "x\\x1b[2J" in str(error.__cause__)
    assert "\x1b" not in str(error.__cause__)


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    """A raising `__repr__` does not replace the error that was about to be told."""

    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    assert shown(Odd()).endswith("Odd")
