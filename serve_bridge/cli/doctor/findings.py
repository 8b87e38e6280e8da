"""The findings of `serve-bridge doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    WARNING = "warning"
    """It works now, and fails or loses requests under conditions that the text names."""
    ERROR = "error"
    """It does not work."""


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes:
        severity: How bad it is.
        check: The check that found it, such as "clocks".
        text: The fault, with the values that show it.
        remedy: The way out.
    """

    severity: Severity
    check: str
    text: str
    remedy: str


def warning(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that is a warning."""
    return Finding(Severity.WARNING, check, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Return a finding that is an error."""
    return Finding(Severity.ERROR, check, text, remedy)
