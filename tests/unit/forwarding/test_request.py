"""The head of a forwarded request, and the answers to failed requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from serve_bridge import errors
from serve_bridge.errors import EndpointNotFound, ServeBridgeError
from serve_bridge.forwarding.refusals import BadControlHeader, failed
from serve_bridge.forwarding.request import ForwardedRequest
from serve_bridge.http.headers import TELLING
from serve_bridge.wire.heads import INLINE_BODY_BYTES, HttpHead

OWN_ID = (b"x-request-id", b"ours")
"""The header of a request without a valid id."""


def forwarded(*headers: tuple[bytes, bytes], method: str = "GET", **options: Any) -> ForwardedRequest:
    """Return a request with *headers*."""
    scope = {
        "method": method,
        "scheme": "http",
        "http_version": "1.1",
        "path": "/x",
        "query_string": b"",
        "headers": list(headers),
        "client": None,
        "server": None,
    }
    return ForwardedRequest("e", (), scope, timeout_s=1.0, request_ids=iter(["ours"]), **options)


def head_of(request: ForwardedRequest) -> HttpHead:
    """Return the head as the replica reads it."""
    return msgspec.msgpack.decode(request.encode("b", 1, 1.0), type=HttpHead)


def test_a_valid_request_id_is_kept() -> None:
    """Logs of several services can then be joined. User code has the id in the same header as the client sent."""
    request = forwarded((b"x-request-id", b"abc-1"))
    assert (request.request_id, head_of(request).headers) == ("abc-1", [(b"x-request-id", b"abc-1")])


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"\xff"])
def test_an_invalid_request_id_is_replaced(given: bytes) -> None:
    """An id appears in logs and headers, so an invalid one must not reach user code."""
    request = forwarded((b"x-request-id", given))
    assert (request.request_id, head_of(request).headers) == ("ours", [OWN_ID])


def test_no_control_or_hop_by_hop_header_reaches_user_code() -> None:
    """Known control headers are consumed, and unknown ones are dropped."""
    names = [b"x-serve-shard-key", b"x-serve-invented", b"x-request-id", b"connection", b"te", b"accept"]
    request = forwarded(*((name, b"v") for name in names))
    assert head_of(request).headers == [(b"accept", b"v"), (b"x-request-id", b"v")]
    assert request.shard_key == "v"


@pytest.mark.parametrize(("credentials", "left"), [(True, [b"cookie", b"authorization"]), (False, [])])
def test_credentials_travel_where_they_are_meant_to(credentials: bool, left: list[bytes]) -> None:
    """No other header counts as a credential."""
    request = forwarded(
        (b"cookie", b"a=b"), (b"authorization", b"Basic eDp5"), (b"cookies", b"c"), credentials=credentials
    )
    assert [name for name, _ in head_of(request).headers] == [*left, b"cookies", OWN_ID[0]]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-serve-shard-key", b"")],
        [(b"x-serve-call-method", b"\xc3\xa9")],
        [(b"x-serve-shard-key", b"a"), (b"x-serve-shard-key", b"b")],
        [(b"x-serve-timeout-s", b"1"), (b"x-serve-timeout-s", b"1")],
    ],
)
def test_an_unclear_control_header_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    """The server does not guess."""
    with pytest.raises(BadControlHeader, match="x-serve-"):
        forwarded(*headers)


@pytest.mark.parametrize(
    ("given", "timeout_s"), [(b"0.25", 0.25), (b"1", 1.0), (b"00.5", 0.5), (b"3600", 1.0), (b"9" * 15, 1.0)]
)
def test_a_header_can_only_shorten_the_time(given: bytes, timeout_s: float) -> None:
    """A longer time in the header is ignored."""
    assert forwarded((b"x-serve-timeout-s", given)).timeout_s == timeout_s


NO_SECONDS = [
    *(b"", b"0", b"0.0", b"-1", b"+1", b"nan", b"inf", b"1e309", b"1e1", b" 1", b"1 ", b"1 2", b"1;2", b"1,2", b"0x1"),
    *(b".5", b"5.", b"1_0", b"1\n", b"9" * 5000, b"0." + b"1" * 5000, "\u0661".encode(), b"\xb9"),
]


@pytest.mark.parametrize("given", NO_SECONDS, ids=lambda given: repr(given[:12]))
def test_a_header_that_is_no_number_of_seconds_is_refused(given: bytes) -> None:
    """So is text which Python would read as a number."""
    with pytest.raises(BadControlHeader, match="x-serve-timeout-s must be a number of seconds"):
        forwarded((b"x-serve-timeout-s", given))


def test_a_route_that_takes_no_time_from_clients_ignores_the_header() -> None:
    """The header may have any value, and is not forwarded."""
    request = forwarded((b"x-serve-timeout-s", b"0"), timeout_header=False)
    assert (request.timeout_s, head_of(request).headers) == (1.0, [OWN_ID])


def test_an_invented_header_is_ignored_however_often_it_is_there() -> None:
    """It has no meaning, so a repetition is not ambiguous."""
    assert head_of(forwarded((b"x-serve-x", b""), (b"x-serve-x", b"1"))).headers == [OWN_ID]


def test_a_route_that_names_the_method_ignores_the_header() -> None:
    """An empty name means `__call__`."""
    request = forwarded((b"x-serve-call-method", b"m"), call_method="")
    assert head_of(request).call_method == ""


@pytest.mark.parametrize(
    ("method", "call_method", "idempotent"), [("PUT", "", True), ("POST", "", False), ("GET", "m", False)]
)
def test_only_what_may_run_twice_is_idempotent(method: str, call_method: str, idempotent: bool) -> None:
    """A method of the backend may change state, whatever the HTTP method is."""
    assert forwarded(method=method, call_method=call_method).idempotent is idempotent


def test_a_short_body_travels_in_the_head_and_a_long_one_behind_it() -> None:
    """Whole bodies can be sent again in both cases."""
    short, long = forwarded(), forwarded()
    short.take_body(b"x")
    long.take_body(b"x" * (INLINE_BODY_BYTES + 1))
    assert (head_of(short).body, short.body) == (b"x", None)
    assert head_of(long).body == b""
    assert long.body == [b"x" * (INLINE_BODY_BYTES + 1)]


NO, UNKNOWN, SOON = b"no", b"unknown", b"1"
TOLD: dict[ServeBridgeError, tuple[int, int, bytes | None, bytes | None]] = {
    errors.AuthenticationError("x"): (502, 502, NO, None),
    errors.BackendError("T", "x"): (500, 500, None, None),
    errors.BackendNotFound("x"): (404, 404, NO, None),
    errors.BackendOverloaded("x"): (503, 503, NO, SOON),
    errors.BackendStartError("b", "x"): (500, 500, None, None),
    errors.ConfigError("x"): (500, 500, None, None),
    errors.ControlPlaneLost("x"): (503, 503, NO, None),
    errors.DeadlineExceeded("x", "no"): (504, 504, NO, None),
    errors.DeadlineExceeded("x"): (504, 504, UNKNOWN, None),
    errors.DeploymentError("b", "x"): (500, 500, None, None),
    errors.EndpointNotFound("x"): (404, 503, NO, None),
    errors.InstanceClosed("x"): (503, 503, NO, SOON),
    errors.MethodNotExposed("b", "x"): (404, 404, NO, None),
    errors.NotAllowed("x"): (500, 500, None, None),
    errors.NotConnected("x"): (503, 503, NO, SOON),
    errors.ProtocolError("x"): (502, 502, UNKNOWN, None),
    errors.ReplicaDied("x", "no"): (502, 502, NO, None),
    errors.ReplicaDied("x"): (502, 502, UNKNOWN, None),
    errors.SerializationError("x"): (500, 500, None, None),
}
"""Each error: the status of the proxy and of an adapter, `x-serve-executed`, and `Retry-After` at the proxy."""


@pytest.mark.parametrize("error", TOLD, ids=lambda error: f"{type(error).__name__}-{getattr(error, 'executed', '')}")
@pytest.mark.parametrize("from_adapter", [False, True])
def test_a_failure_says_what_is_known(error: ServeBridgeError, from_adapter: bool) -> None:
    """If a retry is safe, it also says when to retry. The caller in Python gets the same from the error itself."""
    at_proxy, at_adapter, executed, retry_after = TOLD[error]
    answer = failed(error, "id", from_adapter=from_adapter)
    headers = dict(answer.headers)
    if from_adapter and isinstance(error, errors.UNAVAILABLE):
        retry_after = SOON
    assert answer.status == (at_adapter if from_adapter else at_proxy)
    assert (headers.get(b"x-serve-executed"), headers.get(b"retry-after")) == (executed, retry_after)
    assert getattr(error, "executed", None) == (executed.decode() if executed else None)
    assert headers[b"x-request-id"] == b"id"


def test_every_error_is_in_the_table() -> None:
    """A new class with the status 502, 503 or 504 says whether the request ran."""

    def leaves(root: type[ServeBridgeError]) -> Iterator[type[ServeBridgeError]]:
        below = [each for each in root.__subclasses__() if each.__module__ == errors.__name__]
        for each in below:
            yield from leaves(each)
        if not below:
            yield root

    assert {type(error) for error in TOLD} == set(leaves(ServeBridgeError))
    assert all(row[2] is not None for row in TOLD.values() if {row[0], row[1]} & TELLING)


@pytest.mark.parametrize("error", TOLD, ids=lambda error: f"{type(error).__name__}-{getattr(error, 'executed', '')}")
def test_an_error_in_a_view_proves_nothing_of_the_view(error: ServeBridgeError) -> None:
    """Code of the view ran before, so "no" would let a client run it twice."""
    answer = failed(error, "id", from_adapter=True, ran=True)
    assert dict(answer.headers)[b"x-serve-executed"] == UNKNOWN


def test_a_failure_tells_nothing_of_the_inside() -> None:
    """Names and texts are in the log only."""
    assert b"secret" not in failed(EndpointNotFound("secret", ["secret2"]), "id").body
