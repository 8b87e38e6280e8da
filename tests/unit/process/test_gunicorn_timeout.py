"""gunicorn's time limit for workers, as the environment gives it."""

from __future__ import annotations

import math

import pytest

from serve_bridge.process.gunicorn_timeout import gunicorn_timeout_s


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("", 30),
        ("--timeout 60", 60),
        ("--timeout=60", 60),
        ("-t 60", 60),
        ("-t60", 60),
        ("--timeout 0", math.inf),
        ("--timeout 60 'open", 30),
        ("--timeout", 30),
    ],
)
def test_the_environment_gives_gunicorns_timeout(words: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each form of the option; otherwise it is gunicorn's default."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", words)
    assert gunicorn_timeout_s() == seconds
