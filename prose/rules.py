"""The rules of plain English, and their limits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from prose.passages import Passage

HEADLESS: Final = 1
"""Upper limit for sentences beginning with a headless "who" or "what", of 1,000 sentences."""
THAT: Final = 13
"""Upper limit for the word "that", of 1,000 words."""
LABEL: Final = 3
"""Upper limit for the words of a label, such as a column's head: not a sentence, so it may begin with "what"."""
LONG: Final = 25
"""Upper limit for the words of a sentence; longer ones are only listed."""
LISTED: Final = (
    r"somebody",
    r"nobody",
    r"anybody",
    r"who(?:so)?ever",
    r"ours",
    r"anew",
    r"meanwhile",
    r"lest",
    r"for want of",
    r"or else",
    r"(?<!thing )(?<!body )(?<!\bone )(?<!where )(?<!\bwhat )(?<!\bwho )else(?=\W*[.;:!?]|\W*$)",  # for "otherwise"
    r"(?:go|goes|going|went) along",
    r"(?:come|comes|coming|came) back",
    r"(?:let|lets|letting) go of",
    r"(?:hear|hears|heard) nothing",
    r"(?:take|takes|took) nothing new",
    r"(?:see|sees|saw) to it that",
    r"(?:let|lets|letting) in",
    r"no news",
    r"(?:is|are|was|were) to be",
    r"(?:has|have|had) to come",
)
"""Words to avoid everywhere, as regular expressions."""

_LISTED: Final = re.compile("|".join(rf"\b(?:{words})\b" for words in LISTED), re.IGNORECASE)
_HEADLESS: Final = re.compile(r"[\W\d_]*(?:who|what)(?:ever|soever)?\b", re.IGNORECASE)
_THAT: Final = re.compile(r"\bthat\b", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W\d_][\w'’-]*")
_END: Final = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)[)\"'”]*\s+(?=serve_bridge\b|[^a-z\s])")


@dataclass(frozen=True, slots=True)
class Finding:
    """An offence against a rule."""

    line: int
    rule: str
    """"headless", "that", "long", or the listed words."""
    sentence: str


@dataclass(slots=True)
class Count:
    """The figures of some files."""

    sentences: int = 0
    words: int = 0
    headless: int = 0
    that: int = 0
    listed: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, other: Count) -> None:
        """Add the figures of *other*, without its findings."""
        self.sentences += other.sentences
        self.words += other.words
        self.headless += other.headless
        self.that += other.that
        self.listed += other.listed

    @property
    def too_much(self) -> set[str]:
        """The rules with more offences than their limit."""
        return {
            rule
            for rule, exceeded in (
                ("headless", self.headless * 1000 > HEADLESS * self.sentences),
                ("that", self.that * 1000 > THAT * self.words),
                ("listed", self.listed > 0),
            )
            if exceeded
        }


def count(passages: Iterable[Passage]) -> Count:
    """Count the sentences and the words of *passages*, and find the offences."""
    result = Count()
    for passage in passages:
        for line, sentence in _sentences(passage):
            words, thats = len(_WORD.findall(sentence)), len(_THAT.findall(sentence))
            result.sentences += words > 0
            result.words += words
            result.that += thats
            rules = [found[0].lower() for found in _LISTED.finditer(sentence)]
            result.listed += len(rules)
            if words > LABEL and _HEADLESS.match(sentence) and not sentence.rstrip(")\"'”").endswith("?"):
                result.headless += 1
                rules.append("headless")
            rules += ["that"] * (thats > 0) + ["long"] * (words > LONG)
            result.findings += (Finding(line, rule, sentence) for rule in rules)
    return result


def _sentences(passage: Passage) -> Iterator[tuple[int, str]]:
    """Yield the sentences, each in one line and with the number of its first line."""
    begin = 0
    for end in (*(match.end() for match in _END.finditer(passage.text)), len(passage.text)):
        yield passage.line + passage.text.count("\n", 0, begin), " ".join(passage.text[begin:end].split())
        begin = end
