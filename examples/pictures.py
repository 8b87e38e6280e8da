"""The error for unreadable pictures, shared by web apps and backends. Web workers import it, so it loads no model."""

from __future__ import annotations


class Unreadable(ValueError):
    """The backend cannot read a picture. The text is for the user.

    The backend raises the error, and the view around the call catches it. A call raises exceptions of user code with
    their own type.
    """
