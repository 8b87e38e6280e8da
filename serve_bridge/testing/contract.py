"""The contract of adapters: tests for every framework's forwarded routes.

An adapter's package needs one test module. pytest finds the plugin with the fixtures by itself.

    from serve_bridge.adapters import load_adapter
    from serve_bridge.testing import AdapterContract

    class TestBottle(AdapterContract):
        adapter = load_adapter("bottle")

The contract of adapters is the contract of fronts, with its rules, and tests of the options of routes.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import ClassVar, Final

import httpx
import pytest

from serve_bridge.adapters import Adapter, Bridge, RouteSpec
from serve_bridge.client.client import Client
from serve_bridge.client.handle import Handle
from serve_bridge.errors import DeadlineExceeded
from serve_bridge.testing.front_contract import FrontContract
from serve_bridge.testing.fronts.front import needs
from serve_bridge.testing.fronts.routes import METHODS, ROUTES, SINGLE, SUBJECT, deploy_subject
from serve_bridge.testing.raw_exchange import RawExchange
from serve_bridge.testing.servers import serve_asgi, serve_wsgi

__all__ = ["SUBJECT", "AdapterContract", "FrontContract", "deploy_subject"]

MISSING: Final = "contract-missing"
MOST_BYTES: Final = 1000

_INTERFACE_LACKS: Final[Mapping[str, tuple[str, ...]]] = {
    "asgi": (),
    "wsgi": ("chunked uploads", "duplex", "early heads", "disconnects", "websockets"),
}


class AdapterContract(FrontContract):
    """Tests for every adapter: the contract of fronts, and the options of routes.

    Attributes:
        adapter: The adapter to test.
        request_method: Dotted path to the HTTP method in the framework's request, as for `context`.
    """

    adapter: ClassVar[Adapter]
    request_method: ClassVar[str] = "method"

    @classmethod
    def what_is_lacking(cls) -> frozenset[str]:
        """Return the names in `lacks`, and those of abilities that the interface of the adapter lacks."""
        adapter: Adapter | None = getattr(cls, "adapter", None)
        return super().what_is_lacking() | set(_INTERFACE_LACKS[adapter.interface] if adapter is not None else ())

    @classmethod
    def routes(cls) -> tuple[RouteSpec, ...]:
        """Return all routes: those of the contract of fronts, and those with options."""
        listed = {"method": cls.request_method, "missing": f"{cls.request_method}.nothing"}
        return (
            *ROUTES,
            RouteSpec("/missing", MISSING, ("GET",)),
            RouteSpec("/add", SUBJECT, ("POST",), {"method_name": "add"}),
            RouteSpec("/chosen/echo", SUBJECT, ("POST",), {"method_header": True}),
            RouteSpec("/trusted/echo", SUBJECT, METHODS, {"credentials": True}),
            RouteSpec("/listed/echo", SUBJECT, METHODS, {"context": listed}),
            RouteSpec("/told/echo", SUBJECT, METHODS, {"context": lambda request: {"user": 7}}),
            RouteSpec("/short/digest", SUBJECT, ("POST",), {"max_body_bytes": MOST_BYTES}),
            RouteSpec("/quick/hanging", SUBJECT, ("GET",), {"timeout_s": 0.2}),
            RouteSpec("/quick/endless", SUBJECT, ("GET",), {"timeout_s": 0.2}),
            RouteSpec("/asked/hanging", SUBJECT, ("GET",), {"timeout_header": True}),
            RouteSpec("/single/hanging", SINGLE, ("GET",)),
            RouteSpec("/hasty/hanging", SINGLE, ("GET",), {"timeout_s": 0.2}),
        )

    @classmethod
    @contextmanager
    def front(cls, client: Client) -> Iterator[str]:
        """Serve an application of the adapter; yield the base URL."""
        with cls.served(client.address) as url:
            yield url

    @classmethod
    @contextmanager
    def served(cls, address: str, *, root_path: str = "") -> Iterator[str]:
        """Serve an application for the instance at *address* below *root_path*; yield the base URL."""
        bridge = Bridge(address)
        serve = serve_asgi if cls.adapter.interface == "asgi" else serve_wsgi
        try:
            with serve(cls.adapter.application(bridge, cls.routes()), root_path=root_path) as url:
                yield url
        finally:
            bridge.close()

    def test_it_is_an_adapter(self) -> None:
        """It has a name, an interface and applications."""
        assert isinstance(self.adapter, Adapter)
        assert self.adapter.name
        assert self.adapter.interface in _INTERFACE_LACKS

    def test_a_prefix_belongs_to_the_path(self, serve_bridge_contract: Client) -> None:
        """The backend sees the path as the client sent it, with the prefix; routes begin below the prefix."""
        with self.served(serve_bridge_contract.address, root_path="/app") as url:
            seen = httpx.get(f"{url}/echo/x", trust_env=False).json()
        assert (seen["path"], seen["params"]) == ("/app/echo/x", {"rest": ["str", "x"]})

    # options of routes

    def test_a_route_names_the_backends_method(self, serve_bridge_http: httpx.Client) -> None:
        """The JSON body and the query become the arguments of the method."""
        assert serve_bridge_http.post("/add?by=2", json=3).json() == {"sum": 5}

    def test_a_route_may_let_a_header_choose_the_method(self, serve_bridge_http: httpx.Client) -> None:
        """X-SERVE-CALL-METHOD counts if the route has `method_header`."""
        answer = serve_bridge_http.post("/chosen/echo?by=2", json=3, headers={"x-serve-call-method": "add"})
        assert answer.json() == {"sum": 5}

    def test_no_header_chooses_the_method_elsewhere(self, serve_bridge_http: httpx.Client) -> None:
        """The application decides which methods clients may call."""
        answer = serve_bridge_http.post("/echo?by=2", json=3, headers={"x-serve-call-method": "add"})
        assert answer.json()["method"] == "POST"

    @pytest.mark.parametrize("name", ["cookie", "authorization"])
    def test_credentials_stay_with_the_application(self, serve_bridge_http: httpx.Client, name: str) -> None:
        """By default the backend does not get Cookie and Authorization."""
        headers = dict(serve_bridge_http.get("/echo", headers={name: "a=b"}).json()["headers"])
        assert name not in headers

    @pytest.mark.parametrize("name", ["cookie", "authorization"])
    def test_credentials_are_forwarded_if_the_route_says_so(self, serve_bridge_http: httpx.Client, name: str) -> None:
        """The values are unchanged."""
        headers = dict(serve_bridge_http.get("/trusted/echo", headers={name: "a=b"}).json()["headers"])
        assert headers[name] == "a=b"

    def test_listed_context_is_forwarded(self, serve_bridge_http: httpx.Client) -> None:
        """The request's state has the listed names only, with None for a missing value."""
        state = serve_bridge_http.put("/listed/echo").json()["state"]
        assert state == {"method": "PUT", "missing": None, "user": "absent"}

    def test_computed_context_is_forwarded(self, serve_bridge_http: httpx.Client) -> None:
        """The request's state has the mapping of a function of the framework's request."""
        assert serve_bridge_http.get("/told/echo").json()["state"]["user"] == 7

    def test_no_context_is_forwarded_by_default(self, serve_bridge_http: httpx.Client) -> None:
        """Without the option, the request's state is empty."""
        assert set(serve_bridge_http.get("/echo").json()["state"].values()) == {"absent"}

    def test_a_body_within_the_limit_passes(self, serve_bridge_http: httpx.Client) -> None:
        """A body with exactly `max_body_bytes` is forwarded."""
        assert serve_bridge_http.post("/short/digest", content=b"x" * MOST_BYTES).json()["size"] == MOST_BYTES

    def test_a_body_above_the_limit_is_a_413(self, serve_bridge_http: httpx.Client) -> None:
        """The answer has a request id."""
        answer = serve_bridge_http.post("/short/digest", content=b"x" * (MOST_BYTES + 1))
        assert answer.status_code == 413
        assert answer.headers["x-request-id"]

    @needs("chunked uploads")
    def test_a_body_of_unknown_length_above_the_limit_is_a_413(self, serve_bridge_http: httpx.Client) -> None:
        """The bytes of a chunked body are counted while they arrive."""
        body = (b"x" * 600 for _ in range(2))
        assert serve_bridge_http.post("/short/digest", content=body).status_code == 413

    @needs("early answers")
    def test_a_body_above_the_limit_is_refused_before_it_is_sent(self, serve_bridge_front: str) -> None:
        """The Content-Length is enough for the refusal."""
        with RawExchange(serve_bridge_front, "POST", "/short/digest", [("content-length", str(10**9))]) as exchange:
            assert exchange.head().status_code == 413

    def test_a_request_that_takes_too_long_is_a_504(self, serve_bridge_http: httpx.Client) -> None:
        """The timeout of the route counts, and the work is cancelled."""
        gate = secrets.token_hex(8)
        answer = serve_bridge_http.get("/quick/hanging", params={"gate": gate})
        assert answer.status_code == 504
        assert answer.headers["x-serve-executed"] in ("no", "unknown")
        assert answer.headers["x-request-id"]

    def test_an_answer_that_takes_too_long_ends(
        self, serve_bridge_http: httpx.Client, serve_bridge_subject: Handle
    ) -> None:
        """The timeout covers the whole answer, and the work is cancelled. Not every server shows the missing end."""
        gate, status = "", 504
        while status == 504:  # the answer had not begun
            gate, status = secrets.token_hex(8), 200
            with suppress(httpx.TransportError):
                status = serve_bridge_http.get("/quick/endless", params={"gate": gate}).status_code
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    def test_a_route_may_let_a_header_shorten_its_time(self, serve_bridge_http: httpx.Client) -> None:
        """X-SERVE-TIMEOUT-S counts if the route has `timeout_header`; a value that is not a time is refused."""
        asked = {given: {"x-serve-timeout-s": given} for given in ("0.2", "0")}
        params = {"gate": secrets.token_hex(8)}
        found = [serve_bridge_http.get("/asked/hanging", params=params, headers=asked[given]) for given in asked]
        assert [answer.status_code for answer in found] == [504, 400]

    @pytest.mark.parametrize("given", ["0", "0.000001"])
    def test_no_header_shortens_the_time_elsewhere(self, serve_bridge_http: httpx.Client, given: str) -> None:
        """The application decides how long a request may take."""
        assert serve_bridge_http.get("/echo", headers={"x-serve-timeout-s": given}).status_code == 200

    @needs("disconnects")
    def test_a_client_that_leaves_the_queue_never_starts(
        self, serve_bridge_front: str, serve_bridge_contract: Client
    ) -> None:
        """Its place in the queue is free again, and its request never reaches user code."""
        gate, left = secrets.token_hex(8), []

        def probed() -> tuple[int, str]:
            """Return the status of another request: 504 after waiting in the one place of the queue, or 503."""
            answer = httpx.get(f"{serve_bridge_front}/hasty/hanging?gate={gate}", trust_env=False, verify=False)
            return answer.status_code, answer.headers["x-serve-executed"]

        with RawExchange(serve_bridge_front, "GET", f"/single/hanging?gate={gate}") as holding:
            holding.end()
            _until(lambda: probed() == (504, "no"))
            is_full = False
            while not is_full:
                left.append(secrets.token_hex(8))
                with RawExchange(serve_bridge_front, "GET", f"/single/hanging?gate={left[-1]}") as waiting:
                    waiting.end()
                    is_full = probed()[0] == 503
                    waiting.leave()
            _until(lambda: probed() == (504, "no"))
            holding.leave()
        begun = serve_bridge_contract.get_handle(SINGLE).options(method_name="begun", timeout_s=0.2)
        for each in left:
            with pytest.raises(DeadlineExceeded):
                begun.call(each)

    # missing endpoints, routes and instances

    def test_an_unknown_endpoint_is_a_503(self, serve_bridge_http: httpx.Client) -> None:
        """The application has this URL, and caches would keep a 404. The client may retry soon."""
        answer = serve_bridge_http.get("/missing", headers={"x-request-id": "mine-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (503, "mine-1")
        assert (answer.headers["retry-after"], answer.headers["x-serve-executed"]) == ("1", "no")

    def test_an_unknown_path_is_a_404_of_the_application(self, serve_bridge_http: httpx.Client) -> None:
        """This is also true of a path for which the instance itself has a route."""
        assert serve_bridge_http.get("/-/routes").status_code == 404

    def test_no_instance_is_a_503(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """The answer has `Retry-After`, and the other pages of the application work."""
        address = str(tmp_path_factory.mktemp("nowhere") / "none.json")
        with self.served(address) as url, httpx.Client(base_url=url, trust_env=False, verify=False) as http:
            answer = http.get("/echo")
            assert http.get("/nowhere").status_code == 404
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["x-serve-executed"] == "no"
        assert answer.headers["x-request-id"]


def _until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
