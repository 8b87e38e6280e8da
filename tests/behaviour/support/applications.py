"""Applications that tests mount. Small to import: every replica of a Ray cluster does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

from starlette.types import Receive, Scope, Send

import serve_bridge as serve
from tests.support.waiting import reached, wait_until

CHUNK = b"x" * 65_536
FLOOD = 4096
"""Chunks that a flood has: 256 MiB, far more than all buffers on the way together."""


class Noted:
    """What happens in a replica, told to a test by a directory that both know."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def note(self, name: str, text: str = "") -> None:
        """Say that *name* has happened. Its file is never there without the text."""
        draft = self._directory / f".{name}-{threading.get_ident()}"
        draft.write_text(text)
        draft.replace(self._directory / name)

    def has(self, name: str) -> bool:
        """Return whether *name* has happened."""
        return (self._directory / name).exists()


# ASGI


async def seen(scope: Scope, receive: Receive, send: Send) -> None:
    """Return what of a request's scope arrived; an application without a lifespan."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    told = {key: scope[key] for key in ("method", "path", "root_path", "path_params", "http_version", "scheme")}
    told["raw_path"] = scope.get("raw_path", b"").decode()
    told["headers"] = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    told["state"] = scope["state"]
    told["time_left"] = serve.time_left() is not None
    body = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class Flooding(Noted):
    """Streams more than anybody holds, and says how far it has come, and when it is stopped."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200})
        try:
            for produced in range(1, FLOOD + 1):
                await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
                self.note("produced", str(produced))
        finally:
            self.note("stopped")


class Waiting(Noted):
    """Sends a first piece, and another one when it is told to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await reached(lambda: self.has("go"))
        await send({"type": "http.response.body", "body": b"two"})


class Silent(Noted):
    """Sends a head, and when it is told to a body; fails instead if it is told that too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await reached(lambda: self.has("go"))
        if self.has("fail"):
            raise ValueError("secret")
        await send({"type": "http.response.body", "body": b"all"})


class Living(Noted):
    """Tells of its lifespan."""

    def __init__(self, directory: str, failure: str | None = None) -> None:
        super().__init__(directory)
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Live, or answer one request."""
        if scope["type"] == "http":
            assert self.has("startup")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"alive"})
            return
        await receive()
        if self._failure is not None:
            await send({"type": "lifespan.startup.failed", "message": self._failure})
            return
        self.note("startup")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.note("shutdown")
        await send({"type": "lifespan.shutdown.complete"})


_OK = {"type": "http.response.start", "status": 200, "headers": []}
_MORE = {"type": "http.response.body", "body": b"part", "more_body": True}
_LAST = {"type": "http.response.body", "body": b"last"}
MISTAKES: dict[str, list[Any]] = {
    "silent": [],
    "only-start": [_OK],
    "body-first": [_LAST],
    "two-starts": [_OK, _OK],
    "raises": [ValueError("secret")],
    "raises-started": [_OK, ValueError("secret")],
    "exits": [SystemExit(3)],
    "unknown": [{"type": "http.response.nonsense"}],
    "bad-status": [{**_OK, "status": 99}, _LAST],
    "bad-header": [{**_OK, "headers": [(b"x", b"a\r\nb: c")]}, _LAST],
    "result": ["a result"],
    "broken-off": [_OK, _MORE],
    "raises-late": [_OK, _MORE, ValueError("secret")],
    "start-late": [_OK, _MORE, _OK],
    "after-end": [_OK, _LAST, _LAST],
    "raises-after-end": [_OK, _LAST, ValueError("secret")],
}
"""What an application does at each path: messages that it sends, and what it then raises or returns."""


async def mistaken(scope: Scope, receive: Receive, send: Send) -> Any:
    """Do what the path says."""
    for step in MISTAKES[scope["path"].rpartition("/")[2]]:
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, str):
            return step
        await send(step)
    return None


# WSGI


def _checked(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    names = [name for name in environ if isinstance(environ[name], str)]
    body = json.dumps({name: environ[name] for name in names}).encode()
    environ["wsgi.input"].read(10)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


checked = validator(_checked)
"""Returns its environment; what serves it is checked against PEP 3333."""


class WsgiFlooding(Noted):
    """As `Flooding`."""

    def __call__(self, environ: MutableMapping[str, Any], start_response: Any) -> Iterator[bytes]:
        """Answer one request."""
        start_response("200 OK", [])
        return self._chunks()

    def _chunks(self) -> Iterator[bytes]:
        try:
            for produced in range(1, FLOOD + 1):
                yield CHUNK
                self.note("produced", str(produced))
        finally:
            self.note("stopped")


class WsgiWaiting(Noted):
    """As `Waiting`."""

    def __call__(self, environ: MutableMapping[str, Any], start_response: Any) -> Iterator[bytes]:
        """Answer one request."""
        start_response("200 OK", [])
        yield b"one"
        wait_until(lambda: self.has("go"))
        yield b"two"


class WsgiReading(Noted):
    """Reads its body, and says what comes of it."""

    def __call__(self, environ: MutableMapping[str, Any], start_response: Any) -> list[bytes]:
        """Answer one request."""
        self.note("begun")
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            self.note("failed", type(error).__name__)
            raise
        start_response("200 OK", [])
        return [b""]


class WsgiLengths:
    """Notes the CONTENT_LENGTH of each request in a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, environ: MutableMapping[str, Any], start_response: Any) -> list[bytes]:
        """Answer one request."""
        with open(self._path, "a") as file:
            file.write(f"{environ.get('CONTENT_LENGTH')} ")
        start_response("200 OK", [])
        return [b""]


class _Closing(list[bytes]):
    def close(self) -> None:
        raise ValueError("secret")


def wsgi_mistaken(environ: dict[str, Any], start_response: Any) -> Any:
    """Do what the path says."""
    what = environ["PATH_INFO"].rpartition("/")[2]
    if what == "silent":
        return []
    if what == "raises":
        raise ValueError("secret")
    if what == "raises-reset":
        raise ConnectionResetError("of a database")
    if what == "exits":
        raise SystemExit(3)
    start_response("bad" if what == "bad-status" else "200 OK", [("Content-Length", "4")] if what == "short" else [])
    if what == "two-starts":
        start_response("200 OK", [])
    if what == "nothing":
        return None
    if what == "raises-closing":
        return _Closing([b"last"])
    if what == "raises-late":
        return _breaking()
    return ["text"] if what == "text" else [b"la"]


def _breaking() -> Iterator[bytes]:
    yield b"part"
    raise ValueError("secret")


def replacing(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """Change the answer's head after all, as error pages do."""
    start_response("200 OK", [("X-First", "1")])
    yield b""
    try:
        raise ValueError("secret")
    except ValueError as error:
        start_response("418 Teapot", [("X-Second", "2")], (type(error), error, error.__traceback__))
    yield b"sorry"


def writing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Use what `start_response` returns."""
    write = start_response("200 OK", [])
    write(b"one ")
    write(b"two ")
    return [b"three"]


def overlong(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Return more than was declared."""
    start_response("200 OK", [("Content-Length", "4")])
    return [b"12", b"345", b"678"]


def sending_file(environ: dict[str, Any], start_response: Any) -> Any:
    """Send this file as servers are asked to."""
    start_response("200 OK", [("Connection", "keep-alive")])
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"), 100)
