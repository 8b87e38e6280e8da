"""The ASGI scope and the body of a Django request, for forwarding.

Rule 1: the body is streamed, and not held in memory. If Django has read the body already, its copy is forwarded.
Rule 2: the settings about hosts and proxies apply, so the backend sees the same host and scheme as a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.http.request import RawPostDataException, UnreadablePostError
from starlette.types import Receive, Scope

from serve_bridge.adapters.bridge.asgi_scope import readable
from serve_bridge.adapters.bridge.file_body import receive_from
from serve_bridge.adapters.bridge.form_body import FormBody, FormFile, FormPart, media_type_of
from serve_bridge.adapters.environ import body_of as server_body_of
from serve_bridge.adapters.environ import headers_of, kept_target, peer_of, server_of
from serve_bridge.http.body_length import BODY_LENGTH, body_length, environ_body_length
from serve_bridge.http.paths import quoted, without_high_escapes
from serve_bridge.http.readable import Readable

_LENGTHS: Final = (b"content-length", b"transfer-encoding")


def scope_of(request: HttpRequest) -> Scope:
    """Return the ASGI scope that describes *request*.

    Raises:
        DisallowedHost: The host is not in ALLOWED_HOSTS; Django answers 400.
    """
    host = request.get_host()
    scope = _asgi_scope(request) if isinstance(request, ASGIRequest) else _wsgi_scope(request)
    if host != request.META.get("HTTP_HOST"):
        headers = [pair for pair in scope["headers"] if pair[0] != b"host"]
        scope["headers"] = [*headers, (b"host", host.encode("latin-1"))]
    return scope


def _asgi_scope(request: Any) -> Scope:
    given = readable(request.scope)
    return {
        "type": "http",
        "method": request.method,
        "scheme": request.scheme,
        "http_version": given.get("http_version", "1.1"),
        "path": request.path,
        "raw_path": given.get("raw_path"),
        "root_path": request.script_name.rstrip("/") if request.script_name else given.get("root_path"),
        "query_string": request.META.get("QUERY_STRING", "").encode(),  # in `scope`, the test client leaves a str
        "headers": given["headers"],
        BODY_LENGTH: body_length(given),
        "client": peer_of(request.META),
        "server": server_of(request.META) if given.get("server") else None,  # with the port
    }


def _wsgi_scope(request: HttpRequest) -> Scope:
    meta = request.META
    return {
        "type": "http",
        "method": request.method or "GET",
        "scheme": request.scheme,
        "http_version": meta.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2] or "1.1",
        "path": request.path,
        # Django has decoded the path, with escapes for bytes that are not UTF-8. A client may have sent the same
        # escapes as text. Only the original target, if the server keeps it, tells the two apart.
        "raw_path": kept_target(meta, request.path) or quoted(without_high_escapes(request.path)),
        "root_path": meta.get("SCRIPT_NAME", "").rstrip("/"),
        "query_string": meta.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers_of(meta),
        BODY_LENGTH: environ_body_length(meta),
        "client": peer_of(meta),
        "server": server_of(meta),
    }


def body_of(request: Any, scope: Scope) -> bytes | Readable:
    """Return the body of *request*, or a file to read it from. Set the length in *scope*.

    A form with files that Django has parsed already, as `CsrfViewMiddleware` does, is encoded again.

    Raises:
        RawPostDataException: Other code has read the body and not kept it.
    """
    has_body = hasattr(request, "_body")
    if scope[BODY_LENGTH] is None and isinstance(request, WSGIRequest) and (has_body or not request._read_started):
        return server_body_of(request.META)  # Django does not read a body without a Content-Length
    if has_body:  # code has read `request.body`, or Django has parsed a form without files
        body: bytes = request._body
        _set_length(scope, len(body))
        return body
    if not request._read_started:
        stream: Readable = request
        return stream
    if scope[BODY_LENGTH] == 0:
        return b""
    if _is_cut_short(request):
        return _Gone()
    if request.content_type != "multipart/form-data" or not hasattr(request, "_files"):
        raise RawPostDataException(
            f"the body of {request.method} {request.path} cannot be forwarded, because other code has read it; "
            "such code must use request.body, which keeps the body, or not read it"
        )
    form = FormBody(_parts(request), charset=request.encoding or settings.DEFAULT_CHARSET)
    scope.update(form.scope(scope))
    return form


def _is_cut_short(request: Any) -> bool:
    """Whether the client left while other code read the body: `CsrfViewMiddleware` ignores that error."""
    stream = request._stream  # under WSGI it knows the expected length; under ASGI the body is complete
    if getattr(stream, "_pos", 0) >= getattr(stream, "limit", 0):
        return False
    try:
        return not request.read(1)
    except OSError:
        return True


async def async_body_of(request: Any, scope: Scope) -> bytes | Receive:
    """Return the body of *request* as `body_of` does, without blocking the running loop.

    Under ASGI, Django receives the whole body before it calls the view, in memory or in a temporary file.
    """
    body = body_of(request, scope)
    if isinstance(body, bytes):
        return body
    length: int | None = scope[BODY_LENGTH]
    on_disk = length is None or length > settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    return receive_from(body, length, on_disk=on_disk)


def _parts(request: HttpRequest) -> Iterator[FormPart]:
    """Yield the fields, then the files. Django keeps only the order of first occurrence of each name."""
    for name, values in request.POST.lists():
        yield from ((name, str(value)) for value in values)
    for name, files in request.FILES.lists():
        yield from (FormFile(name, file.name or "", _media_type(file), file, file.size) for file in files)


def _media_type(file: Any) -> str:
    """Return the Content-Type of *file*; Django's parser leaves its parameters as bytes, with the charset apart."""
    extra = dict(getattr(file, "content_type_extra", None) or {})
    if getattr(file, "charset", None):
        extra.setdefault("charset", file.charset)
    return media_type_of(file.content_type or "", ((name, _text(value)) for name, value in extra.items()))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Gone:
    """The body of a client that left while Django read it."""

    def read(self, size: int, /) -> bytes:
        """Raise the error of a broken upload."""
        raise UnreadablePostError("the client left during its upload")


def _set_length(scope: Scope, length: int) -> None:
    headers = [pair for pair in scope["headers"] if pair[0] not in _LENGTHS]
    scope["headers"] = [*headers, (b"content-length", b"%d" % length)] if length else headers
    scope[BODY_LENGTH] = length
