"""The ASGI scope and the body of a request that a WSGI environ describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from serve_bridge.forwarding.refusals import LengthRequired
from serve_bridge.http.body_length import BODY_LENGTH, environ_body_length
from serve_bridge.http.headers import HeaderList
from serve_bridge.http.name_cache import NameCache
from serve_bridge.http.paths import is_text_of, quoted
from serve_bridge.http.readable import Readable

_NO_HEADERS: Final = frozenset({"HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE", "HTTP_PROXY"})
"""Keys to ignore. A client's header `Content_Length`, with an underscore, could become one of the first two. CGI
programs would take the third, from a header `Proxy`, for an environment variable of the system."""
_EMPTY_IF_NONE: Final = frozenset({b"content-type", b"content-length"})


def scope_of(environ: Mapping[str, Any]) -> Scope:
    """Return the scope of *environ*, with names and values of headers as the server has put them there."""
    root_path = _text(environ.get("SCRIPT_NAME", ""))
    path = root_path + (_text(environ.get("PATH_INFO", "")) or "/")
    return {
        "type": "http",
        "method": environ["REQUEST_METHOD"],
        "scheme": environ.get("wsgi.url_scheme"),
        "http_version": environ.get("SERVER_PROTOCOL", "HTTP/1.1").partition("/")[2] or "1.1",
        "path": path,
        "raw_path": _raw_path(environ, path),
        "root_path": root_path,
        "query_string": environ.get("QUERY_STRING", "").encode("latin-1"),
        "headers": headers_of(environ),
        "client": peer_of(environ),
        "server": server_of(environ),
        BODY_LENGTH: environ_body_length(environ),
    }


def body_of(environ: Mapping[str, Any]) -> Readable:
    """Return the body of the request.

    If the server does not say where the body ends, `read` raises `LengthRequired`.
    """
    if is_terminated(environ) or "HTTP_TRANSFER_ENCODING" not in environ:
        body: Readable = environ["wsgi.input"]
        return body
    return _Endless()


def is_terminated(environ: Mapping[str, Any]) -> bool:
    """Return whether the server says where the body ends: by a Content-Length, or by an end of the input."""
    return environ_body_length(environ) is not None or bool(environ.get("wsgi.input_terminated"))


class _Endless:
    """A chunked body from a server that does not say where the input ends: a read could block for ever."""

    def read(self, size: int, /) -> bytes:
        raise LengthRequired


def path_below(environ: Mapping[str, Any]) -> str:
    """Return the decoded path below where the application is mounted."""
    return _text(environ.get("PATH_INFO", "")) or "/"


def headers_of(environ: Mapping[str, Any]) -> HeaderList:
    """Return the headers of the request in ASGI's form."""
    headers: HeaderList = []
    for key, value in environ.items():
        name = _NAMES[key]
        if name is not None and (value or name not in _EMPTY_IF_NONE):
            headers.append((name, str(value).encode("latin-1")))
    return headers


def _header_name(key: str) -> bytes | None:
    """Return the name of the header that *key* of an environ stands for; None if *key* is not a header."""
    if key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        name = key
    elif key.startswith("HTTP_") and key not in _NO_HEADERS:
        name = key[5:]
    else:
        return None
    return name.lower().replace("_", "-").encode("latin-1")


_NAMES: Final = NameCache(_header_name)


def peer_of(environ: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return host and port of the client; None if it is connected to a unix socket."""
    host = environ.get("REMOTE_ADDR")
    return (host, _port(environ, "REMOTE_PORT") or 0) if host else None


def server_of(environ: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """Return host and port of the server; None if the server does not tell them."""
    host = environ.get("SERVER_NAME")
    return (host, _port(environ, "SERVER_PORT")) if host else None


def _port(environ: Mapping[str, Any], key: str) -> int | None:
    text = str(environ.get(key))
    return int(text) if text.isdecimal() else None  # without a port, a server passes "None" or leaves the key out


def _raw_path(environ: Mapping[str, Any], path: str) -> bytes | None:
    """Return the path as the client has sent it. If the server has not kept it, quote the bytes of the path."""
    own = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return kept_target(environ, path) or (None if own.isascii() else quoted(own.encode("latin-1")))


def kept_target(environ: Mapping[str, Any], path: str) -> bytes | None:
    """Return the path as the client has sent it; None if the server does not keep it or if code has changed *path*."""
    target = str(environ.get("RAW_URI") or environ.get("REQUEST_URI") or "").partition("?")[0]
    if not target.isascii():
        return None
    if target == path or ("%" in target and is_text_of(path, unquote_to_bytes(target))):
        return target.encode()
    return None


def _text(path: str) -> str:
    # In PEP 3333 each character of a path is one byte.
    return path if path.isascii() else path.encode("latin-1").decode("utf-8", "replace")
