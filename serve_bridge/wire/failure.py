"""Exceptions of user code as bytes.

Rule 1: the name of the type, the text and the traceback always arrive. Each is a field of its own. No code reads them
    from a formatted traceback, because its lines may contain text from users.
Rule 2: the exception itself travels as a pickle only if the replica could pickle and unpickle it. So an odd exception
    class loses at most its type, and the caller still gets an answer.
Rule 3: SystemExit, KeyboardInterrupt and similar exceptions arrive as a `BackendError`. As themselves, they would end
    the loop or the process of the caller. The methods of an exception, such as `__str__`, may raise them too.
"""

from __future__ import annotations

import traceback
from typing import Final

import msgspec

from serve_bridge.errors import BackendError, SerializationError, ServeBridgeError
from serve_bridge.printable import printable
from serve_bridge.wire import payload
from serve_bridge.wire.heads import HttpFailure, decoder, encode_head
from serve_bridge.wire.segments import join


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
"""Upper limit for the name of a type in characters, in a shortened failure."""
SHORT_TEXT: Final = 4096
"""Upper limit for the text of an exception in characters, in a shortened failure."""

_decode = decoder(_Failure)


def pack(error: BaseException) -> bytes:
    """Return *error* as bytes. Never raises."""
    return encode_head(_Failure(type_of(error), text_of(error), traceback_of(error), _pickled(error)))


def pack_plain(error: BaseException) -> bytes:
    """Return *error* as bytes without a pickle, for callers that unpickle nothing. Never raises."""
    return encode_head(_Failure(type_of(error), text_of(error), traceback_of(error), b""))


def unpack_plain(data: bytes | bytearray | memoryview) -> BaseException:
    """Return the exception in *data* as a `BackendError`, or as a `SerializationError`. No pickle in it is read.

    Raises:
        ProtocolError: *data* was not made by `pack_plain`.
    """
    failure = _decode(data)
    if failure.type_name == SerializationError.__qualname__:
        return SerializationError(failure.text)
    return BackendError(failure.type_name, failure.text, failure.traceback)


def pack_short(error: BaseException) -> bytes:
    """Return *error* as bytes with its texts cut, for an error that is too long for a frame."""
    return encode_head(
        _Failure(type_of(error)[:SHORT_TYPE], text_of(error)[:SHORT_TEXT], traceback_of(error)[-16384:], b"")
    )


def of_http(backend: str, error: BaseException) -> HttpFailure:
    """Return the failure for *error*, which code of *backend* raised, with its texts cut. Never raises."""
    text, trace = text_of(error)[:SHORT_TEXT], traceback_of(error)[-8192:]
    return HttpFailure(backend, type_of(error)[:SHORT_TYPE], text, trace)


def portable(error: BaseException) -> BaseException:
    """Return *error* if its pickled form keeps its type. Otherwise return a `BackendError` with its texts."""
    return error if _pickled(error) else BackendError(type_of(error), text_of(error), traceback_of(error))


def unpack(data: bytes | bytearray | memoryview) -> BaseException:
    """Return the exception in *data*, with its own type if possible. Otherwise it is a `BackendError`.

    Raises:
        ProtocolError: *data* was not made by `pack`.
    """
    failure = _decode(data)
    error: BaseException = BackendError(failure.type_name, failure.text, failure.traceback)
    if failure.pickled:
        try:
            own = payload.unpack(failure.pickled)
        except ServeBridgeError:
            return error  # its class does not exist in this process
        if isinstance(own, Exception):
            error = own
            error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def type_of(error: BaseException) -> str:
    """Return the name of the class of *error*."""
    return _encodable(type(error).__qualname__)


def text_of(error: BaseException) -> str:
    """Return the text of *error*, even if its `__str__` raises."""
    try:
        return _encodable(str(error))
    except BaseException:  # rule 3
        return "(its __str__ raises)"


def traceback_of(error: BaseException) -> str:
    """Return the formatted traceback of *error*, even if it cannot be formatted."""
    try:
        return _encodable("".join(traceback.format_exception(error)))
    except BaseException:  # rule 3
        return f"{type(error).__qualname__}: {text_of(error)}"


def _encodable(text: str) -> str:
    # Half a surrogate pair, as in the name of an undecodable file, has no UTF-8 form.
    return text.encode("utf-8", "backslashreplace").decode()


def _pickled(error: BaseException) -> bytes:
    if not isinstance(error, Exception):
        return b""  # rule 3
    try:
        data = join(payload.pack(error))
        if type(payload.unpack(data)) is type(error):
            return data
    except BaseException:  # rule 3
        pass
    return b""
