"""Django responses that carry an answer of user code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http.cookies import SimpleCookie
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders


class AnyCookies(SimpleCookie):
    """The cookies of a response that has raw cookies too.

    They count as true even if empty: Django's cache keeps no answer with cookies that varies on Cookie. Otherwise it
    would give one user's session to others.
    """

    def __bool__(self) -> bool:
        return True


class ForwardedResponse:
    """The common part of both responses: repeated headers, and a request id that caches do not keep."""

    headers: Any
    cookies: SimpleCookie
    repeated: Mapping[str, tuple[str, list[str]]] = {}
    """Repeated headers by name: the joined value, which middleware sees in `headers`, and the single values."""
    raw_cookies: tuple[str, ...] = ()

    def add_raw_cookie(self, header: str) -> None:
        """Add a cookie whose *header* is sent unchanged."""
        self.raw_cookies += (header,)
        self.cookies = AnyCookies(self.cookies)

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the headers to send. If middleware has changed a repeated header, yield its new value."""
        for name, value in self.headers.items():
            joined, values = self.repeated.get(name.lower(), ("", []))
            if values and joined == value:
                for each in values:
                    yield name, each
            else:
                yield name, value
        for cookie in self.raw_cookies:
            yield "Set-Cookie", cookie

    def __getstate__(self) -> dict[str, Any]:
        """Leave the request id out, because a pickled response is in a cache and answers other requests."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        kept = {name: value for name, value in self.headers.items() if name.lower() != "x-request-id"}
        return {**state, "headers": ResponseHeaders(kept)}


class WholeResponse(ForwardedResponse, HttpResponse):
    """A response with a whole body. Middleware may replace the body, as with Django's own responses.

    Attributes:
        is_head: Whether it answers HEAD. Then the body is not sent; not every server drops it.
    """

    is_head = False

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield the headers to send. For HEAD leave out a Content-Length of 0, which is not the length for GET."""
        for name, value in super().items():
            if not (self.is_head and value == "0" and name.lower() == "content-length"):
                yield name, value

    def __iter__(self) -> Iterator[bytes]:
        return iter((b"",)) if self.is_head else super().__iter__()

    @property
    def content(self) -> bytes:
        """The body."""
        return bytes(HttpResponse.content.fget(self))

    @content.setter
    def content(self, value: Any) -> None:
        self.headers.pop("content-length", None)
        HttpResponse.content.fset(self, value)


class StreamedResponse(ForwardedResponse, StreamingHttpResponse):
    """A response with a streamed body."""
