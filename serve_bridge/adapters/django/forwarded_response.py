"""Django responses that carry an answer of user code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import ResponseHeaders


class ForwardedResponse:
    """What both kinds of responses have: headers that are there several times, and an id that caches do not keep."""

    headers: Any
    repeated: Mapping[str, tuple[str, list[str]]] = {}
    """Names, each with its values joined, as `headers` shows them to middleware, and one by one."""
    raw_cookies: tuple[str, ...] = ()

    def items(self) -> Iterator[tuple[str, str]]:
        """Iterate what is sent; a header that has been changed meanwhile is what it was changed to."""
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
        """Leave the request's id out: a pickled response is one in a cache, and answers other requests."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        kept = {name: value for name, value in self.headers.items() if name.lower() != "x-request-id"}
        return {**state, "headers": ResponseHeaders(kept)}


class WholeResponse(ForwardedResponse, HttpResponse):
    """One whose body is there; middleware may put another in its place, as Django's own responses allow.

    Attributes:
        is_head: Whether it answers HEAD. Then it has no body, and not every server sees to that.
    """

    is_head = False

    def items(self) -> Iterator[tuple[str, str]]:
        """Iterate what is sent; the length of the body that HEAD does not have is not that of the answer to GET."""
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
    """One whose body is to come."""
