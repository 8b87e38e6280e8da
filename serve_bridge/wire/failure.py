"""Exceptions of user code as bytes.

Rule 1: the type's name, its text and the remote traceback are written first and always arrive. Each is a field of its
    own: nothing is read from a formatted traceback, whose lines may be text of the user.
Rule 2: the exception itself travels as a pickle only if it survived a round trip where it was raised, so
    that an odd exception class can cost its type and never the answer.
Rule 3: SystemExit, KeyboardInterrupt and their like never arrive as themselves: raised in the caller they would end its
    loop or its process, which is not the backend's to end.
"""

from __future__ import annotations

import traceback
from typing import Final

import msgspec

from serve_bridge.errors import BackendError, ServeBridgeError
from serve_bridge.printable import printable
from serve_bridge.wire import payload
from serve_bridge.wire.heads import HttpFailure, decoder, encode_head


class _Failure(msgspec.Struct, frozen=True, array_like=True):
    type_name: str
    text: str
    traceback: str
    pickled: bytes


class RemoteTraceback(Exception):
    """The traceback of an exception in the process where it was raised."""

    def __str__(self) -> str:
        return "\n\n" + printable(str(self.args[0]), lines=True)


SHORT_TYPE: Final = 256
"""Upper limit for a type's name in characters, where texts are cut."""
SHORT_TEXT: Final = 4096
"""Upper limit for an exception's text in characters, where texts are cut."""

_decode = decoder(_Failure)


def pack(error: BaseException) -> bytes:
    """Return *error* as bytes; never raises."""
    return encode_head(_Failure(type_of(error), text_of(error), traceback_of(error), _pickled(error)))


def pack_short(error: BaseException) -> bytes:
    """Return *error* as bytes with its texts cut: for one too long to send whole."""
    return encode_head(
        _Failure(type_of(error)[:SHORT_TYPE], text_of(error)[:SHORT_TEXT], traceback_of(error)[-16384:], b"")
    )


def of_http(backend: str, error: BaseException) -> HttpFailure:
    """Return *error*, which code of *backend* raised for an HTTP request, with its texts cut; never raises."""
    text, trace = text_of(error)[:SHORT_TEXT], traceback_of(error)[-8192:]
    return HttpFailure(backend, type_of(error)[:SHORT_TYPE], text, trace)


def portable(error: BaseException) -> BaseException:
    """Return *error* if it has a pickled form that keeps its type. Otherwise return the `BackendError` that says it."""
    return error if _pickled(error) else BackendError(type_of(error), text_of(error), traceback_of(error))


def unpack(data: bytes | bytearray | memoryview) -> BaseException:
    """Return the exception that `pack` has packed: as its own type, else as `BackendError`.

    Raises:
        ProtocolError: *data* is not what `pack` returns.
    """
    failure = _decode(data)
    error: BaseException = BackendError(failure.type_name, failure.text, failure.traceback)
    if failure.pickled:
        try:
            own = payload.unpack(failure.pickled)
        except ServeBridgeError:
            return error  # its class does not exist here; the text says all there is
        if isinstance(own, Exception):
            error = own
            error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def type_of(error: BaseException) -> str:
    """Return the name of the class of *error*."""
    return _encodable(type(error).__qualname__)


def text_of(error: BaseException) -> str:
    """Return what *error* says, even if its `__str__` raises."""
    try:
        return _encodable(str(error))
    except Exception:
        return "(its __str__ raises)"


def traceback_of(error: BaseException) -> str:
    """Return the formatted traceback of *error*, even if it cannot be formatted."""
    try:
        return _encodable("".join(traceback.format_exception(error)))
    except Exception:
        return f"{type(error).__qualname__}: {text_of(error)}"


def _encodable(text: str) -> str:
    # Half a surrogate pair, as in the name of an undecodable file, has no UTF-8 form.
    return text.encode("utf-8", "backslashreplace").decode()


def _pickled(error: BaseException) -> bytes:
    if not isinstance(error, Exception):
        return b""  # Rule 3
    try:
        data = payload.join(payload.pack(error))
        if type(payload.unpack(data)) is type(error):
            return data
    except Exception:
        pass
    return b""
