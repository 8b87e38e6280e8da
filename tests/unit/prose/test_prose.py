"""The counter of `make prose` finds what plain English avoids, and nothing that it allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from prose.__main__ import main
from prose.passages import passages_of
from prose.rules import THAT, count

MODULE = '''\
"""Whoever imports this reads `nobody`."""

# A comment that has
# two lines. Anew.
x = 1  # type: ignore[nobody]


def send(log, size):
    """Send it.

    Who waits for the answer is told.

    >>> nobody()
    """
    log.warning("meanwhile %s", size)
    if size:
        raise ValueError(f"{size} goes along " f"{size!r} lest")
    return "somebody"
'''


def found(tmp_path: Path, text: str, name: str = "page.md") -> list[tuple[int, str]]:
    """Return the line and the rule of each finding, without "that"."""
    (tmp_path / name).write_text(text)
    findings = count(passages_of(tmp_path / name)).findings
    return sorted((each.line, each.rule) for each in findings if each.rule != "that")


@pytest.mark.parametrize(
    "text",
    [
        "What a message is stands in its last byte.",
        "It waits. Who finds the queue full gets 503.",
        "- whatever the client sends is dropped",
        "| key | What the proxy may hold |",
        "## What you can rely on",
        "**Who leaves early** gets nothing.",
    ],
)
def test_a_headless_sentence_is_found(tmp_path: Path, text: str) -> None:
    """Wherever a sentence can begin."""
    assert found(tmp_path, text) == [(1, "headless")]


@pytest.mark.parametrize(
    "text",
    [
        "What is a backend?",
        "## Who may call it?",
        "| what it does |",
        "The router knows what waits.",
        "```python\n# What runs here is code.\n```",
        "<!-- What is not shown is not read. -->",
        "`What is code` is left out.",
    ],
)
def test_a_question_a_label_and_code_are_not_headless(tmp_path: Path, text: str) -> None:
    """They have a head, or are no sentence."""
    assert found(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Nobody waits.", "nobody"),
        ("Close it, or else\nit leaks.", "or else"),
        ("Answer with a problem else.", "else"),
        ("The worker lets\n  go of it.", "lets go of"),
        ("It sees to it that nothing waits.", "sees to it that"),
        ("A request is let in.", "let in"),
        ("It is to be closed.", "is to be"),
        ("For want of a file it stops.", "for want of"),
    ],
)
def test_a_listed_word_is_found(tmp_path: Path, text: str, words: str) -> None:
    """In any case, and across a line's end."""
    assert found(tmp_path, text) == [(1, words)]


@pytest.mark.parametrize("text", ["It does nothing else.", "`anew` renews.", "See https://example.org/anew now."])
def test_a_word_that_only_looks_listed_is_not_found(tmp_path: Path, text: str) -> None:
    """In code, in a URL, in another meaning."""
    assert found(tmp_path, text) == []


@pytest.mark.parametrize(("thats", "too_much"), [(THAT, set()), (THAT + 1, {"that"})])
def test_the_word_that_has_a_limit_of_a_thousand_words(tmp_path: Path, thats: int, too_much: set[str]) -> None:
    """The limit itself is allowed."""
    (tmp_path / "page.md").write_text("that " * thats + "word " * (1000 - thats))
    assert count(passages_of(tmp_path / "page.md")).too_much == too_much


def test_a_long_sentence_is_listed_but_not_too_much(tmp_path: Path) -> None:
    """From the 26th word on; a full stop ends a sentence."""
    assert found(tmp_path, "A" + " word" * 24 + ". And" + " word" * 25 + ".") == [(1, "long")]
    assert count(passages_of(tmp_path / "page.md")).too_much == set()


def test_a_module_is_read_where_it_speaks(tmp_path: Path) -> None:
    """Docstrings, comments, errors and logs, with their lines; other strings and code are not."""
    assert found(tmp_path, MODULE, "module.py") == [
        (1, "headless"),
        (1, "whoever"),
        (4, "anew"),
        (11, "headless"),
        (15, "meanwhile"),
        (17, "goes along"),
        (17, "lest"),
    ]


def test_the_command_judges_pages_and_modules_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints where a rule is broken, and the totals."""
    (tmp_path / "page.md").write_text("The proxy waits.\n\nNobody waits.\n")
    (tmp_path / "module.py").write_text('"""Send it."""\n')
    assert main([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'page.md'}:3: nobody: Nobody waits.\n" in printed
    assert "code: 2 words in 1 sentences;" in printed
    assert "docs: 5 words in 2 sentences;" in printed
    assert main([str(tmp_path / "module.py")]) == 0
