"""What user code returned becomes an answer, or an error that names what is in the way."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import enum
import json
import math
import sqlite3
from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas
import polars
import pyarrow
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.background import BackgroundTask
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from serve_bridge.errors import SerializationError
from serve_bridge.http.answers import Answer, check_head, fit_trailers, problem
from serve_bridge.http.json_encoding import as_json
from serve_bridge.replica.rendering import StreamOf, render

LENGTH = b"content-length"
TYPE = b"content-type"


class Point(pydantic.BaseModel):
    """A pydantic model that holds what JSON does not know."""

    x: int
    at: datetime
    raw: bytes = b"r"


class Floating(pydantic.BaseModel):
    """A pydantic model with a number."""

    x: float


@dataclasses.dataclass
class Row:
    """A dataclass that holds what JSON does not know."""

    name: bytes
    values: Any = None


class Colour(enum.Enum):
    """An enumeration with text values."""

    RED = "red"


class Celsius(float):
    """A subclass of a builtin."""


Pair = namedtuple("Pair", "a b")


class MyDatetime(datetime):
    """A subclass, as many libraries have one."""


class MyDate(date):
    """A subclass of a date."""


class MyTime(time):
    """A subclass of a time."""


class MyDelta(timedelta):
    """A subclass of a time span."""


class MyDecimal(Decimal):
    """A subclass of a decimal number."""


class MyUUID(UUID):
    """A subclass of a UUID, as database drivers have one."""


NOON = MyDatetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)


def sqlite_row() -> sqlite3.Row:
    """Return a row of a database."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.row_factory = sqlite3.Row
        row: sqlite3.Row = database.execute("select 1 as id, 'x' as name").fetchone()
        return row


def answer(result: object, **options: bool) -> Answer:
    """Return the rendered answer, which is no stream."""
    rendered = render(result, **options)
    assert isinstance(rendered, Answer)
    return rendered


def parsed(result: object) -> Any:
    """Return what a client's JSON parser makes of the result."""
    rendered = answer(result)
    assert dict(rendered.headers)[TYPE] == b"application/json"
    return json.loads(rendered.body)


def test_none_is_empty() -> None:
    """None is 200 without a body."""
    assert answer(None) == Answer(200, [(LENGTH, b"0")], b"")


def test_str_is_plain_text() -> None:
    """Text is UTF-8, and the length counts bytes."""
    assert answer("é") == Answer(200, [(LENGTH, b"2"), (TYPE, b"text/plain; charset=utf-8")], b"\xc3\xa9")


@pytest.mark.parametrize("result", [b"\x00\xff", bytearray(b"\x00\xff"), memoryview(b"\x00\xff")])
def test_bytes_go_out_as_they_are(result: Any) -> None:
    """Bytes of any kind are sent unchanged."""
    assert answer(result) == Answer(200, [(LENGTH, b"2"), (TYPE, b"application/octet-stream")], b"\x00\xff")


def test_text_with_a_lone_surrogate_cannot_be_sent() -> None:
    """What UTF-8 cannot hold is an error, not a replacement character."""
    with pytest.raises(SerializationError):
        render("\ud800")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        ([], []),
        ((1, "a"), [1, "a"]),
        (5, 5),
        (False, False),
        (2**100, 2**100),
        ({1: "a", 1.5: "b", None: "c"}, {"1": "a", "1.5": "b", "null": "c"}),
        ({True: "a", False: "b"}, {"true": "a", "false": "b"}),
        ({date(2026, 1, 2): b"x"}, {"2026-01-02": "x"}),
        ({b"k": b"\xc3\xa9"}, {"k": "é"}),
        ([[b"deep"]], [["deep"]]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([b"x", None], dtype=object), ["x", None]),
        ({"a": np.arange(3), np.int64(1): np.str_("s")}, {"a": [0, 1, 2], "1": "s"}),
        (Row(b"n", np.arange(2)), {"name": "n", "values": [0, 1]}),
        ([Row(b"n")], [{"name": "n", "values": None}]),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
        ({"d": date(2026, 1, 2), "t": timedelta(seconds=1)}, {"d": "2026-01-02", "t": "PT1S"}),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Decimal("1.10"), "1.10"),
        ({3}, [3]),
        (Colour.RED, "red"),
        ({"c": Colour.RED, "b": b"x"}, {"c": "red", "b": "x"}),
        (Celsius(1.5), 1.5),
        (Pair(1, b"b"), [1, "b"]),
        (OrderedDict(a=b"x"), {"a": "x"}),
        (deque([1]), [1]),
        (range(3), [0, 1, 2]),
        ({"a": 1}.keys(), ["a"]),
        (msgspec.defstruct("S", [("a", bytes)])(b"x"), {"a": "x"}),
        (NOON, "2026-01-02T12:00:00.000005Z"),
        ([MyDate(2026, 1, 2), MyTime(12), MyDelta(seconds=1)], ["2026-01-02", "12:00:00", "PT1S"]),
        ([MyDecimal("1.10"), MyUUID(int=1)], ["1.10", "00000000-0000-0000-0000-000000000001"]),
        ({NOON: 1, MyDate(2026, 1, 2): 2}, {"2026-01-02T12:00:00.000005Z": 1, "2026-01-02": 2}),
        ([Path("/a/b"), PurePosixPath("c")], ["/a/b", "c"]),
        ([IPv4Address("10.0.0.1"), IPv6Network("::/8")], ["10.0.0.1", "::/8"]),
        (UserDict({"a": UserList([b"x"])}), {"a": ["x"]}),
        (array.array("i", [1, 2]), [1, 2]),
        (frozenset({3}), [3]),
        ({"a": 1}.values(), [1]),
        (sqlite_row(), {"id": 1, "name": "x"}),
        (np.array(["2026-01-02T03:04:05.000006", "NaT"], "datetime64[ns]"), ["2026-01-02T03:04:05.000006", None]),
        (np.datetime64("2026-01-02T03:04:05", "ns"), "2026-01-02T03:04:05"),
        (np.datetime64("2026-01-02"), "2026-01-02"),
        ([np.datetime64("NaT", "s"), np.datetime64("NaT", "ns")], [None, None]),
        (np.array([[1_500_000_000]], "timedelta64[ns]"), [["PT1.5S"]]),
        (np.longdouble(0.5), 0.5),
        (np.array([np.longdouble(0.5)]), [0.5]),
        (np.ma.array([1, 2], mask=[0, 1]), [1, None]),
        (pandas.Timestamp("2026-01-02T03:04:05", tz="UTC"), "2026-01-02T03:04:05Z"),
        (pandas.Timestamp("2026-01-02T03:04:05.000000006"), "2026-01-02T03:04:05.000000006"),
        (pandas.Timedelta(seconds=1), "PT1S"),
        ([pandas.NA, pandas.NaT, {"a": pandas.NA}], [None, None, {"a": None}]),
        (pandas.Series([pandas.Timestamp("2026-01-02"), pandas.NaT]), ["2026-01-02T00:00:00", None]),
        (pandas.Series([1, None], dtype="Int64"), [1, None]),
        (pandas.Categorical(["a", None]), ["a", None]),
        (pandas.Series(["a", None]), ["a", None]),
        (pandas.Index([1, 2]), [1, 2]),
        (pandas.DataFrame({"a": [1], "t": [pandas.NaT]}).to_dict("records"), [{"a": 1, "t": None}]),
        (polars.Series([1, None]), [1, None]),
        (pyarrow.array([1, None]), [1, None]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_all_else_is_json(result: Any, expected: Any) -> None:
    """Builtins, bytes, numpy, dataclasses, dates and their mixtures become JSON."""
    assert parsed(result) == expected


def test_pydantic_models_are_json_at_any_depth() -> None:
    """A model is what its own JSON mode says."""
    point = Point(x=1, at=datetime(2026, 1, 1, tzinfo=UTC))
    expected = {"x": 1, "at": "2026-01-01T00:00:00Z", "raw": "r"}
    assert parsed(point) == expected
    assert parsed({"points": [point]}) == {"points": [expected]}


class Opaque:
    """What no encoder knows."""

    def __repr__(self) -> str:
        return "Opaque()"


@pytest.mark.parametrize(
    "result",
    [Opaque(), {"a": [Opaque()]}, Opaque, Row(b"", Opaque()), np.array([Opaque()], dtype=object)],
    ids=repr,
)
def test_what_cannot_be_encoded_is_named(result: Any) -> None:
    """The error names the class that is in the way, wherever it is."""
    with pytest.raises(SerializationError, match=r"Opaque|class builtins\.type"):
        render(result)


@pytest.mark.parametrize(
    ("result", "path"),
    [
        (math.nan, r"the result is nan"),
        ({"n": [1.0, None, -math.inf]}, r"the result\['n'\]\[2\] is -inf"),
        ({"a": {"b": (0.0, {"c": math.inf})}}, r"the result\['a'\]\['b'\]\[1\]\['c'\] is inf"),
        (np.array([[0.0, np.nan]]), r"the result\[0\]\[1\] is nan"),
        (np.float32("nan"), r"the result is nan"),
        (Row(b"n", [np.float64("inf")]), r"the result\['values'\]\[0\] is inf"),
        (Floating(x=math.nan), r"the result\['x'\] is nan"),
        (pandas.Series([1.0, None]), r"the result\[1\] is nan"),
        ({"x" * 100: math.nan}, r"the result\['x{39}\.\.\.\] is nan"),
    ],
    ids=repr,
)
def test_nan_and_infinity_are_errors_that_name_their_path(result: Any, path: str) -> None:
    """JSON has neither, and null would hide what a model computed."""
    with pytest.raises(SerializationError, match=path):
        render(result)


def test_a_null_does_not_make_a_finite_result_an_error() -> None:
    """None, and text that says null, are values."""
    assert parsed({"a": None, "b": "null", "c": [1.5]}) == {"a": None, "b": "null", "c": [1.5]}


@pytest.mark.parametrize(
    ("result", "path"),
    [
        ({"a": [1, Opaque()]}, r"the result\['a'\]\[1\]: class .*Opaque cannot"),
        ({"rows": [Row(b"", {"x": Opaque()})]}, r"the result\['rows'\]\[0\]\.values\['x'\]: class .*Opaque cannot"),
        ({"a": {"b": {(1, 2): 3}}}, r"the result\['a'\]\['b'\]: a dict key of class builtins\.tuple"),
        (Opaque(), r"the result: class .*Opaque cannot"),
        (pandas.DataFrame({"a": [1]}), r"class .*DataFrame cannot"),
        ({"a": np.array([[Opaque()]], dtype=object)}, r"the result\['a'\]\[0\]\[0\]: class .*Opaque cannot"),
        ([1j], r"the result\[0\]: class builtins\.complex"),
    ],
    ids=repr,
)
def test_an_error_names_the_path_of_what_cannot_be_encoded(result: Any, path: str) -> None:
    """A reader of the log finds the value."""
    with pytest.raises(SerializationError, match=path):
        render(result)


def loop() -> list[Any]:
    """Return a list that holds itself."""
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize("result", [1j, {"a": b"\xff"}, {(1, 2): 3}, {"a": "\ud800"}, loop(), map(str, [])])
def test_other_unencodable_results_are_serialization_errors(result: Any) -> None:
    """Bad UTF-8, odd keys, cycles and iterators fail with the one error that callers expect."""
    with pytest.raises(SerializationError):
        render(result)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_json_values_round_trip(value: Any) -> None:
    """A JSON value comes out of a parser as it went in."""
    assert json.loads(as_json(value)) == value


@given(
    st.recursive(
        st.integers() | st.text().map(str.encode),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_bytes_inside_are_text_at_any_depth(value: Any) -> None:
    """Bytes and the text they hold encode alike, wherever they are."""

    def decoded(item: Any) -> Any:
        if isinstance(item, bytes):
            return item.decode()
        if isinstance(item, dict):
            return {key: decoded(inner) for key, inner in item.items()}
        return [decoded(inner) for inner in item] if isinstance(item, list | tuple) else item

    assert as_json(value) == as_json(decoded(value))


def test_generators_stream() -> None:
    """A generator is not run here; its chunks are for the replica to pull."""

    def numbers() -> Iterator[str]:
        yield "1"

    async def later() -> AsyncIterator[str]:
        yield "1"

    for chunks in (numbers(), later()):
        rendered = render(chunks)
        assert isinstance(rendered, StreamOf)
        assert rendered.chunks is chunks


@pytest.mark.parametrize(
    ("chunk", "media_type", "encoded"),
    [
        ("é", b"text/plain; charset=utf-8", b"\xc3\xa9"),
        (b"x", b"application/octet-stream", b"x"),
        ({"a": 1}, b"application/x-ndjson", b'{"a":1}\n'),
    ],
)
def test_the_first_chunk_gives_the_media_type(chunk: Any, media_type: bytes, encoded: bytes) -> None:
    """Text, bytes and JSON lines stream as what they are."""
    assert StreamOf.media_type_of(chunk) == media_type
    assert StreamOf.encode(chunk) == encoded


@pytest.mark.parametrize("kind", [Response, PlainTextResponse, HTMLResponse])
def test_plain_responses_become_answers(kind: type[Response]) -> None:
    """Status, headers and body of a Response are kept as they are."""
    response = kind("hi", status_code=418, headers={"X-A": "b"})
    assert answer(response) == Answer(418, response.raw_headers, b"hi")


def test_json_and_redirect_responses_become_answers() -> None:
    """Starlette's other plain responses need no ASGI run either."""
    assert answer(JSONResponse({"a": 1})).body == b'{"a":1}'
    assert (b"location", b"/x") in answer(RedirectResponse("/x")).headers


def test_repeated_headers_of_a_response_are_kept() -> None:
    """Two cookies are two headers."""
    response = Response("x")
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    assert [name for name, _ in answer(response).headers].count(b"set-cookie") == 2


def streaming() -> Response:
    """Return a streaming response."""
    return StreamingResponse(iter(["a"]))


def with_task() -> Response:
    """Return a response with work left to do."""
    return Response("x", background=BackgroundTask(print))


def of_a_file() -> Response:
    """Return a response that reads a file."""
    return FileResponse("missing.txt")


class Custom(Response):
    """A response that sends itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


@pytest.mark.parametrize("make", [streaming, with_task, of_a_file, Custom])
def test_responses_with_a_life_of_their_own_are_run_as_asgi(make: Any) -> None:
    """Streams, files, background tasks and subclasses that send themselves are left as they are."""
    response = make()
    assert render(response) is response


@pytest.mark.parametrize("status", [99, 600, 100, 101, -1, "200", None, 200.0])
def test_bad_statuses_are_refused(status: Any) -> None:
    """What is no final status never reaches the wire."""
    response = Response("x")
    response.status_code = status
    with pytest.raises(SerializationError, match="status"):
        render(response)


@pytest.mark.parametrize("status", [123, 204, 304])
def test_statuses_without_a_body_lose_it(status: int) -> None:
    """The seed's 123 goes out as given, without a body; so do 204 and 304."""
    rendered = answer(Response("Hello, world!", status_code=status, media_type="text/plain"))
    assert (rendered.status, rendered.body) == (status, b"")
    assert LENGTH not in dict(rendered.headers)


def test_not_modified_may_name_a_length() -> None:
    """A 304 says how long the body would have been; a 204 must not."""
    headers = {"content-length": "5"}
    assert answer(Response(status_code=304, headers=headers)).headers == [(LENGTH, b"5")]
    assert answer(Response(status_code=204, headers=headers)).headers == []


@pytest.mark.parametrize(
    "header",
    [
        (b"a", b"x\r\nset-cookie: b"),
        (b"a", b"x\ny"),
        (b"a", b"x\x00"),
        (b"a b", b"x"),
        (b"a:", b"x"),
        (b"", b"x"),
        (b"a\r\n", b"x"),
        ("a", "x"),
        (b"a", "x"),
        (b"a",),
        (b"a", b"x" * 100 * 1024),
    ],
    ids=lambda header: repr(header)[:40],
)
def test_headers_that_could_split_an_answer_are_refused(header: Any) -> None:
    """Line ends, NUL, bad names, wrong types and 100 KiB stop here, for streams too."""
    for response in (Response("x"), streaming()):
        response.raw_headers.append(header)
        with pytest.raises(SerializationError, match="header"):
            render(response)


@pytest.mark.parametrize("lengths", [[b"1", b"1"], [b"2"], [b"-1"], [b"+1"], [b""], [b"1, 1"]])
def test_wrong_lengths_are_refused(lengths: list[bytes]) -> None:
    """A length that the body has not, or that is there twice, is an error before the first byte."""
    response = Response("x")
    response.raw_headers = [(LENGTH, length) for length in lengths]
    with pytest.raises(SerializationError, match="Content-Length"):
        render(response)


def test_an_answer_to_head_may_name_a_length_without_a_body() -> None:
    """HEAD is answered with the headers of GET."""
    response = Response(headers={"content-length": "5"})
    assert answer(response, head=True).headers == [(LENGTH, b"5")]
    with pytest.raises(SerializationError):
        render(response)


def test_a_missing_length_is_added() -> None:
    """A Response whose headers were replaced still has a length."""
    response = Response("abc")
    response.raw_headers = []
    assert answer(response).headers == [(LENGTH, b"3")]


def test_check_head_returns_a_plain_int() -> None:
    """An enumeration's member becomes the number it stands for."""
    assert type(check_head(HTTPStatus.OK, [])) is int


def test_problem_is_rfc_9457() -> None:
    """A problem has type, title, status and the members given; None is left out."""
    rendered = problem(503, "Overloaded", request_id="r1", reason="full", hint=None)
    assert dict(rendered.headers)[TYPE] == b"application/problem+json"
    assert rendered.status == 503
    assert json.loads(rendered.body) == {
        "type": "about:blank",
        "title": "Overloaded",
        "status": 503,
        "request_id": "r1",
        "reason": "full",
    }


def test_trailers_are_what_may_follow_a_body() -> None:
    """What a client must know before it is left out, and so are the engine's own."""
    given = [(b"X-Digest", b"1"), (b"Content-Length", b"3"), (b"set-cookie", b"a=1"), (b"X-Serve-Executed", b"no")]
    assert fit_trailers(given) == [(b"x-digest", b"1")]
    assert fit_trailers([]) == []


@pytest.mark.parametrize(
    "given",
    [[(b"x", b"1\r\n")], [(b"x y", b"1")], [("x", "1")], [(b"x", b"1")] * 101],
    ids=["value", "name", "text", "many"],
)
def test_trailers_that_cannot_be_sent_are_refused(given: Any) -> None:
    """As headers are."""
    with pytest.raises(SerializationError):
        fit_trailers(given)
