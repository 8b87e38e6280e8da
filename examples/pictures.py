"""What web apps and backends say to each other about pictures; web workers import it, so it loads no model."""

from __future__ import annotations


class Unreadable(ValueError):
    """A picture that no backend can read; the text is for the user who sent it.

    A backend raises it, and a view that has called the backend catches it: exceptions of user code arrive as they are.
    """
