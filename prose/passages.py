"""The prose of a file: paragraphs of a Markdown page; docstrings, comments, error and log texts of a Python module.

Code is left out: blocks, inline code, URLs and the values of f-strings. Inline code leaves one sign behind, which is
not a word but can begin a sentence.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CODE: Final = "§"
"""Takes the place of code."""
LOG_METHODS: Final = frozenset({"critical", "debug", "error", "exception", "info", "log", "warning"})

_FENCE: Final = re.compile(r"^[ \t]*(```+|~~~+).*?^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_HTML: Final = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_INLINE_CODE: Final = re.compile(r"(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\1(?!`)", re.DOTALL)
_LINK: Final = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_URL: Final = re.compile(r"\bhttps?://[^\s)>]+")
_BEGINS_PASSAGE: Final = re.compile(r"^\s*(?:#{1,6}\s|[-*+]\s|\d+[.)]\s|!!!|\?\?\?|>|\w+: )")
_TABLE_RULE: Final = re.compile(r"^[\s|:-]*$")
_DIRECTIVE: Final = re.compile(r"#\s*(?:type:|noqa|pragma:|fmt:|ruff:|mypy:|!)")
_DOCTEST: Final = re.compile(r"^\s*(?:>>>|\.\.\.)(?: .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of prose in which sentences end: a paragraph, a list's item, a table's cell, a comment."""

    line: int
    """The number of its first line."""
    text: str
    """Without code; one line for each line of the file."""


def passages_of(file: Path) -> list[Passage]:
    """Return the prose of *file*, a Markdown page or a Python module."""
    text = file.read_text()
    return list(_of_markdown(text) if file.suffix == ".md" else _of_python(text))


def _of_markdown(text: str, first: int = 1) -> Iterator[Passage]:
    """Yield the prose of Markdown; its first line has the number *first*."""
    for pattern in (_FENCE, _HTML):
        text = pattern.sub(lambda match: "\n" * match[0].count("\n"), text)
    text = _INLINE_CODE.sub(lambda match: CODE + "\n" * match[0].count("\n"), text)
    text = _LINK.sub(lambda match: match[1], text)
    text = _URL.sub(CODE, text).replace("*", "")
    begin, lines = first, list[str]()
    for number, line in enumerate(text.split("\n"), first):
        heading, row = line.startswith("#"), line.lstrip().startswith("|")
        if lines and (row or not line.strip() or _BEGINS_PASSAGE.match(line)):
            yield Passage(begin, "\n".join(lines))
            lines = []
        if heading:
            yield Passage(number, line)
        elif row:
            cells = () if _TABLE_RULE.match(line) else line.split("|")
            yield from (Passage(number, cell.strip()) for cell in cells if cell.strip())
        elif line.strip():
            begin = begin if lines else number
            lines.append(line)
    if lines:
        yield Passage(begin, "\n".join(lines))


def _of_python(text: str) -> Iterator[Passage]:
    """Yield docstrings, comments, and the texts of raised errors and log calls."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(docstring))):
                yield from _of_markdown(_DOCTEST.sub("", docstring), node.lineno)
            case ast.Raise(exc=ast.Call() as call):
                yield from _texts(call)
            case ast.Call(func=ast.Attribute(attr=attr)) if attr in LOG_METHODS:
                yield from _texts(node)
    yield from _comments(text)


def _texts(node: ast.AST) -> Iterator[Passage]:
    """Yield the string literals below *node*; an f-string is one, its values are code."""
    match node:
        case ast.Constant(value=str(text)):
            yield from _of_markdown(text, node.lineno)
        case ast.JoinedStr(values=values):
            parts = [str(part.value) if isinstance(part, ast.Constant) else CODE for part in values]
            yield from _of_markdown("".join(parts), node.lineno)
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _texts(child)


def _comments(text: str) -> Iterator[Passage]:
    """Yield the comments; lines below each other at the same column are one."""
    begin, last, lines = (0, 0), (0, 0), list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT or _DIRECTIVE.match(token.string):
            continue
        row, column = token.start
        if lines and (row, column) != (last[0] + 1, last[1]):
            yield from _of_markdown("\n".join(lines), begin[0])
            lines = []
        begin = begin if lines else token.start
        lines.append(token.string.lstrip("# "))
        last = token.start
    if lines:
        yield from _of_markdown("\n".join(lines), begin[0])
