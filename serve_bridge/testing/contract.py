"""The contract of adapters: what holds for every route that is forwarded, whatever framework it belongs to.

A test module of the adapter's package is all it takes; the plugin, which pytest finds by itself, does the rest::

    from serve_bridge.adapters import load_adapter
    from serve_bridge.testing import AdapterContract

    class TestBottle(AdapterContract):
        adapter = load_adapter("bottle")

It is the contract of fronts, whose rules hold here too, and what the options of a route promise.
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
    """What every adapter has to pass: the contract of fronts, and what the options of its routes promise.

    Attributes:
        adapter: The adapter.
        request_method: Where the framework's request, as `context` sees it, has the HTTP method; a dotted path.
    """

    adapter: ClassVar[Adapter]
    request_method: ClassVar[str] = "method"

    @classmethod
    def what_is_lacking(cls) -> frozenset[str]:
        """Also what the interface of the adapter lacks."""
        adapter: Adapter | None = getattr(cls, "adapter", None)
        return super().what_is_lacking() | set(_INTERFACE_LACKS[adapter.interface] if adapter is not None else ())

    @classmethod
    def routes(cls) -> tuple[RouteSpec, ...]:
        """Return the routes, those with options among them."""
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
        """Serve an application of the adapter's; yield the base URL."""
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
        """With a name, an interface and applications."""
        assert isinstance(self.adapter, Adapter)
        assert self.adapter.name
        assert self.adapter.interface in _INTERFACE_LACKS

    def test_a_prefix_belongs_to_the_path(self, serve_bridge_contract: Client) -> None:
        """As the client has sent it; the application's routes begin below it."""
        with self.served(serve_bridge_contract.address, root_path="/app") as url:
            seen = httpx.get(f"{url}/echo/x", trust_env=False).json()
        assert (seen["path"], seen["params"]) == ("/app/echo/x", {"rest": ["str", "x"]})

    # options of routes

    def test_a_route_names_the_backends_method(self, serve_bridge_http: httpx.Client) -> None:
        """JSON and query become its arguments."""
        assert serve_bridge_http.post("/add?by=2", json=3).json() == {"sum": 5}

    def test_a_route_may_let_a_header_choose_the_method(self, serve_bridge_http: httpx.Client) -> None:
        """Where it says so."""
        answer = serve_bridge_http.post("/chosen/echo?by=2", json=3, headers={"x-serve-call-method": "add"})
        assert answer.json() == {"sum": 5}

    def test_no_header_chooses_the_method_elsewhere(self, serve_bridge_http: httpx.Client) -> None:
        """Who may call what is the application's to decide."""
        answer = serve_bridge_http.post("/echo?by=2", json=3, headers={"x-serve-call-method": "add"})
        assert answer.json()["method"] == "POST"

    @pytest.mark.parametrize("name", ["cookie", "authorization"])
    def test_credentials_stay_with_the_application(self, serve_bridge_http: httpx.Client, name: str) -> None:
        """They are between it and its user."""
        headers = dict(serve_bridge_http.get("/echo", headers={name: "a=b"}).json()["headers"])
        assert name not in headers

    @pytest.mark.parametrize("name", ["cookie", "authorization"])
    def test_credentials_go_along_where_the_route_says_so(self, serve_bridge_http: httpx.Client, name: str) -> None:
        """As they are."""
        headers = dict(serve_bridge_http.get("/trusted/echo", headers={name: "a=b"}).json()["headers"])
        assert headers[name] == "a=b"

    def test_listed_context_goes_along(self, serve_bridge_http: httpx.Client) -> None:
        """In the request's state: what the list names, None for what is not there, and nothing else."""
        state = serve_bridge_http.put("/listed/echo").json()["state"]
        assert state == {"method": "PUT", "missing": None, "user": "absent"}

    def test_computed_context_goes_along(self, serve_bridge_http: httpx.Client) -> None:
        """What a function of the framework's request returns."""
        assert serve_bridge_http.get("/told/echo").json()["state"]["user"] == 7

    def test_nothing_goes_along_unasked(self, serve_bridge_http: httpx.Client) -> None:
        """The state is the application's choice."""
        assert set(serve_bridge_http.get("/echo").json()["state"].values()) == {"absent"}

    def test_a_body_within_the_limit_passes(self, serve_bridge_http: httpx.Client) -> None:
        """Up to its last byte."""
        assert serve_bridge_http.post("/short/digest", content=b"x" * MOST_BYTES).json()["size"] == MOST_BYTES

    def test_a_body_above_the_limit_is_a_413(self, serve_bridge_http: httpx.Client) -> None:
        """With a request id."""
        answer = serve_bridge_http.post("/short/digest", content=b"x" * (MOST_BYTES + 1))
        assert answer.status_code == 413
        assert answer.headers["x-request-id"]

    @needs("chunked uploads")
    def test_a_body_of_unknown_length_above_the_limit_is_a_413(self, serve_bridge_http: httpx.Client) -> None:
        """It is counted as it comes."""
        body = (b"x" * 600 for _ in range(2))
        assert serve_bridge_http.post("/short/digest", content=body).status_code == 413

    @needs("early answers")
    def test_a_body_above_the_limit_is_refused_before_it_comes(self, serve_bridge_front: str) -> None:
        """Its Content-Length is enough."""
        with RawExchange(serve_bridge_front, "POST", "/short/digest", [("content-length", str(10**9))]) as exchange:
            assert exchange.head().status_code == 413

    def test_a_request_that_takes_too_long_is_a_504(self, serve_bridge_http: httpx.Client) -> None:
        """After the route's own time; the work is cancelled."""
        gate = secrets.token_hex(8)
        answer = serve_bridge_http.get("/quick/hanging", params={"gate": gate})
        assert answer.status_code == 504
        assert answer.headers["x-request-id"]

    def test_an_answer_that_takes_too_long_ends(
        self, serve_bridge_http: httpx.Client, serve_bridge_subject: Handle
    ) -> None:
        """The time counts to its last byte; the work is cancelled. Not every server can show that some is missing."""
        gate, status = "", 504
        while status == 504:  # it had not begun
            gate, status = secrets.token_hex(8), 200
            with suppress(httpx.TransportError):
                status = serve_bridge_http.get("/quick/endless", params={"gate": gate}).status_code
        assert serve_bridge_subject.options(method_name="ended").call(gate) is True

    def test_a_route_may_let_a_header_shorten_its_time(self, serve_bridge_http: httpx.Client) -> None:
        """Where it says so; what is no number of seconds is refused."""
        asked = {given: {"x-serve-timeout-s": given} for given in ("0.2", "0")}
        params = {"gate": secrets.token_hex(8)}
        found = [serve_bridge_http.get("/asked/hanging", params=params, headers=asked[given]) for given in asked]
        assert [answer.status_code for answer in found] == [504, 400]

    @pytest.mark.parametrize("given", ["0", "0.000001"])
    def test_no_header_shortens_the_time_elsewhere(self, serve_bridge_http: httpx.Client, given: str) -> None:
        """How long a request may take is the application's to decide."""
        assert serve_bridge_http.get("/echo", headers={"x-serve-timeout-s": given}).status_code == 200

    @needs("disconnects")
    def test_a_client_that_leaves_the_line_never_starts(
        self, serve_bridge_front: str, serve_bridge_contract: Client
    ) -> None:
        """Its place there comes free, and not for work that nobody wants."""
        gate, left = secrets.token_hex(8), []

        def probed() -> tuple[int, str]:
            """Return what somebody gets who wants to wait in line: there is one place."""
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

    # what is not there

    def test_an_unknown_endpoint_is_a_503(self, serve_bridge_http: httpx.Client) -> None:
        """The URL is the application's, and caches would keep a 404; the client may try again soon."""
        answer = serve_bridge_http.get("/missing", headers={"x-request-id": "mine-1"})
        assert (answer.status_code, answer.headers["x-request-id"]) == (503, "mine-1")
        assert answer.headers["retry-after"] == "1"

    def test_what_is_not_routed_is_the_applications(self, serve_bridge_http: httpx.Client) -> None:
        """Also what the instance itself has a route for."""
        assert serve_bridge_http.get("/-/routes").status_code == 404

    def test_no_instance_is_a_503(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """With a time to come back; the application itself runs."""
        address = str(tmp_path_factory.mktemp("nowhere") / "none.json")
        with self.served(address) as url, httpx.Client(base_url=url, trust_env=False, verify=False) as http:
            answer = http.get("/echo")
            assert http.get("/nowhere").status_code == 404
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["x-request-id"]


def _until(condition: Callable[[], bool]) -> None:
    """Ask until *condition* holds."""
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
