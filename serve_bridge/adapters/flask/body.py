"""The body of a forwarded Flask request, also after hooks of the app have read it.

Rule 1: an unread body is streamed, and `MAX_CONTENT_LENGTH` applies.
Rule 2: a body that a hook has read is forwarded too: bytes unchanged, a parsed form encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from flask import Request
from starlette.types import Scope
from werkzeug.exceptions import BadRequest
from werkzeug.wsgi import LimitedStream

from serve_bridge.adapters.bridge.form_body import MULTIPART, URLENCODED, FormBody, FormFile, FormPart
from serve_bridge.adapters.environ import body_of as server_body_of
from serve_bridge.adapters.environ import is_terminated
from serve_bridge.http.body_length import BODY_LENGTH
from serve_bridge.http.readable import Readable

_CONSUMED: Final = (
    "the body of this request was read before serve_bridge could forward it; read it in a hook with "
    "request.get_data() or request.get_json(), which keep it, or as request.form and request.files"
)


def body_of(request: Request, scope: Scope) -> bytes | Readable:
    """Return the body of *request*. If it had to be encoded again, change the headers in *scope*.

    Raises:
        BadRequest: werkzeug has read a malformed form, and has found nothing in it.
        RuntimeError: The body was read and not kept.
        RequestEntityTooLarge: The body is longer than the app allows.
    """
    if not is_terminated(request.environ):  # werkzeug does not read such a body
        return _limited(request)
    # werkzeug keeps them in the instance's dict; its public accessors would read the stream.
    found = vars(request)
    if "stream" not in found and "_cached_data" not in found:
        return request.stream if scope[BODY_LENGTH] != 0 else b""
    cached: bytes | None = found.get("_cached_data")
    if cached:
        return cached
    if "form" in found and _is_form(request):
        if _is_malformed(request):
            raise BadRequest("the form is malformed")
        return _encoded(request, scope)
    return cached if cached is not None else _Touched(request)


def _limited(request: Request) -> Readable:
    most = request.max_content_length
    body = server_body_of(request.environ)
    return body if most is None else LimitedStream(cast(Any, body), most, is_max=True)


def _is_form(request: Request) -> bool:
    """Return whether werkzeug has parsed the body as a form. It leaves other types unread, `multipart/mixed` too."""
    return request.mimetype == URLENCODED or (request.mimetype == MULTIPART and "boundary" in request.mimetype_params)


def _is_malformed(request: Request) -> bool:
    """Return whether werkzeug has found nothing in the form that it has read. It drops a malformed form silently.

    A browser sends a form without fields as the last boundary, with at most eight bytes around it.
    """
    empty = 0 if request.mimetype == URLENCODED else len(request.mimetype_params["boundary"]) + 8
    return not request.form and not request.files and (request.content_length or 0) > empty


class _Touched:
    """The stream of a request that a hook has opened, and may have read."""

    def __init__(self, request: Request) -> None:
        self._stream = request.stream
        self._was_read = isinstance(self._stream, LimitedStream) and self._stream.tell() > 0
        self._awaits = bool(request.content_length)

    def read(self, size: int, /) -> bytes:
        piece = b"" if self._was_read else self._stream.read(size)
        if self._was_read or (self._awaits and not piece):
            raise RuntimeError(_CONSUMED)
        self._awaits = False  # after a first piece, an empty piece is the end of the body
        return piece


def _encoded(request: Request, scope: Scope) -> Readable:
    """Return the parsed form of *request*, encoded again."""
    form = FormBody(_parts(request), urlencoded=request.mimetype == URLENCODED)
    scope.update(form.scope(scope))
    return form


def _parts(request: Request) -> Iterator[FormPart]:
    yield from request.form.items(multi=True)
    for name, file in request.files.items(multi=True):
        yield FormFile(name, file.filename or "", file.content_type or "", file.stream, None, file.headers.items())
