"""The variables of the WSGI environment which describe a request.

Rule 1: a header of the client becomes a variable `HTTP_...` and nothing more. No header becomes HTTP_PROXY, which many
        HTTP clients would obey.
"""

from __future__ import annotations

from typing import Any, Final

from serve_bridge.http.paths import split_path
from serve_bridge.replica.http_requests import mount_point
from serve_bridge.wire.heads import HttpHead

_OWN_KEYS: Final = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


def environ_of(head: HttpHead) -> dict[str, Any]:
    """Return the variables for the request of *head*, without those of WSGI itself."""
    above, below = split_path(head.path, head.raw_path, mount_point(head))
    server, client = head.server or ("localhost", 80), head.client
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": above.decode("latin-1"),  # PEP 3333: each byte is one character
        "PATH_INFO": below.decode("latin-1"),
        "QUERY_STRING": head.query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{head.http_version}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "serve_bridge.context": head.context or {},
    }
    if head.raw_path:
        query = f"?{environ['QUERY_STRING']}" if head.query else ""
        environ["REQUEST_URI"] = head.raw_path.decode("latin-1") + query
    if client is not None:
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = client[0], str(client[1])
    for name, value in head.headers:
        if b"_" in name or name == b"proxy":  # "Remote_User" and "Remote-User" would become one variable
            continue
        key = _OWN_KEYS.get(name) or "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if name == b'cookie' else ','}{text}"
        environ[key] = text
    return environ
