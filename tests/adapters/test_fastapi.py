"""What is special to FastAPI: typed stubs over endpoints, and handles as dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, File, Form, Header, HTTPException, Request, UploadFile
from fastapi.testclient import TestClient
from pydantic import BaseModel

import serve_bridge as serve
from serve_bridge import BackendError, Handle
from serve_bridge.adapters.starlette.extension import ServeBridge, ServeBridgeMiddleware, get_handle


class Features(BaseModel):
    """What a model is asked."""

    area: float
    rooms: int = 1


class Prediction(BaseModel):
    """What it answers."""

    price: float


class User(BaseModel):
    """Who asks."""

    id: int


async def current_user(authorization: Annotated[str | None, Header()] = None) -> User:
    """Return who asks."""
    if authorization is None:
        raise HTTPException(401)
    return User(id=7)


@pytest.fixture
def bridge(asgi_engine: serve.Client) -> Iterator[ServeBridge]:
    """A bridge to the instance."""
    bridge = ServeBridge(asgi_engine.address)
    yield bridge
    bridge.close()


@pytest.fixture
def app() -> FastAPI:
    """An empty application."""
    return FastAPI()


@pytest.fixture
def http(app: FastAPI) -> Iterator[TestClient]:
    """A client of it."""
    with TestClient(app) as http:
        yield http


@pytest.fixture
def predicting(app: FastAPI, bridge: ServeBridge) -> None:
    """The application predicts."""

    @app.post("/predict/{item_id}")
    @bridge.endpoint("echo")
    async def predict(item_id: int, features: Features, limit: int = 3) -> Prediction:
        """Predict the price of an item."""

    app.post("/raw/{item_id}", response_model=None)(predict)


# typed stubs


@pytest.mark.usefixtures("predicting")
def test_what_is_valid_is_forwarded_as_it_came(http: TestClient) -> None:
    """Every byte of the body, and path parameters of the stub's types."""
    body = b'{ "area":1e2,\n "more": true }'
    seen = http.post("/raw/007?limit=4", content=body, headers={"content-type": "application/json"}).json()
    assert seen["body"] == body.decode()
    assert seen["params"] == {"item_id": ["int", 7]}
    assert seen["query"] == [["limit", "4"]]


@pytest.mark.usefixtures("predicting")
@pytest.mark.parametrize(
    ("path", "body"), [("/predict/x", {"area": 1}), ("/predict/1?limit=x", {"area": 1}), ("/predict/1", {"area": "x"})]
)
def test_what_is_not_valid_is_answered_in_the_web_process(http: TestClient, path: str, body: Any) -> None:
    """Path, query and body, in FastAPI's own way."""
    answer = http.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"].endswith("_parsing")


@pytest.mark.usefixtures("predicting")
def test_a_stub_is_in_the_openapi_document(http: TestClient) -> None:
    """With its docstring, parameters, body and the type that it returns."""
    document = http.get("/openapi.json").json()
    operation = document["paths"]["/predict/{item_id}"]["post"]
    assert operation["description"] == "Predict the price of an item."
    assert [each["name"] for each in operation["parameters"]] == ["item_id", "limit"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Prediction")
    assert {"Features", "Prediction"} <= document["components"]["schemas"].keys()


def test_a_sync_stub_is_as_good(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """It never runs, so nothing of it blocks."""

    @app.get("/x/{name}")
    @bridge.endpoint("echo")
    def own(name: str) -> None:
        pass

    assert http.get("/x/a").json()["params"] == {"name": ["str", "a"]}


def test_a_stub_may_stand_in_a_router(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """With the prefix and the dependencies of that."""
    router = APIRouter(prefix="/api", dependencies=[Depends(current_user)])

    @router.get("/x")
    @bridge.endpoint("echo")
    async def own() -> None: ...

    app.include_router(router, prefix="/v1")
    assert http.get("/v1/api/x").status_code == 401
    assert http.get("/v1/api/x", headers={"authorization": "me"}).json()["path"] == "/v1/api/x"


def test_what_dependencies_return_may_go_along(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """`arguments` in the route's context; the credentials themselves stay."""

    @app.get("/x/{item}")
    @bridge.endpoint("echo", context={"user_id": "arguments.user.id", "item": "arguments.item"})
    async def own(item: int, user: Annotated[User, Depends(current_user)]) -> None: ...

    seen = http.get("/x/3", headers={"authorization": "me"}).json()
    assert seen["state"] == {"user_id": 7, "item": 3}
    assert "authorization" not in dict(seen["headers"])


def test_a_dependency_may_read_the_body(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """As those that check signatures do."""

    async def signed(request: Request) -> bytes:
        return await request.body()

    @app.post("/x", dependencies=[Depends(signed)])
    @bridge.endpoint("echo")
    async def own() -> None: ...

    assert http.post("/x", content=b"raw").json()["body"] == "raw"


def test_a_stub_without_a_body_model_streams_the_body(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """Nothing of it is kept in the web process."""

    @app.post("/x")
    @bridge.endpoint("echo")
    async def own() -> None: ...

    assert http.post("/x", content=b"x" * 200_000).json()["body"] == "x" * 200_000


def test_background_tasks_run_after_the_answer(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """Those that dependencies add."""
    ran: list[int] = []

    async def task(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, 1)

    @app.get("/x", dependencies=[Depends(task)])
    @bridge.endpoint("count")
    async def own() -> None: ...

    assert http.get("/x").text == "0\n1\n2\n"
    assert ran == [1]


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_form_is_forwarded(app: FastAPI, bridge: ServeBridge, http: TestClient, size: int) -> None:
    """Fields and files, after FastAPI has read and checked them."""

    @app.post("/x")
    @bridge.endpoint("form")
    async def own(title: Annotated[str, Form()], picture: UploadFile, more: Annotated[bytes, File()]) -> None: ...

    files = {"picture": ("é.png", b"p" * size, "image/png"), "more": ("m", b"m")}
    answer = http.post("/x", data={"title": 'ü"\r\n'}, files=files)
    assert answer.json() == {"title": 'ü"\r\n', "picture": ["é.png", "p" * size], "more": ["m", "m"]}
    assert http.post("/x", data={"title": "t"}).status_code == 422


def test_a_form_without_files_is_forwarded(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """In the encoding that it came in."""

    @app.post("/x")
    @bridge.endpoint("form")
    async def own(title: Annotated[str, Form()]) -> None: ...

    assert http.post("/x", data={"title": "ü &=", "rest": "1"}).json() == {"title": "ü &=", "rest": "1"}


@pytest.mark.parametrize("media_type", ["application/json", "multipart/mixed; boundary=b"])
def test_a_body_that_is_no_form_arrives_after_a_dependency_asked_for_one(
    app: FastAPI, bridge: ServeBridge, http: TestClient, media_type: str
) -> None:
    """Starlette then returns an empty form and leaves the body unread."""

    async def token(request: Request) -> Any:
        return (await request.form()).get("token")

    @app.post("/x", dependencies=[Depends(token)])
    @bridge.endpoint("echo")
    async def own() -> None: ...

    answer = http.post("/x", content=b"[1]", headers={"content-type": media_type}).json()
    assert (answer["body"], dict(answer["headers"])["content-type"]) == ("[1]", media_type)


def test_errors_are_fastapis(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """With the request's id."""

    @app.get("/x")
    @bridge.endpoint("failing")
    async def own() -> None: ...

    answer = http.get("/x", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal Server Error"})
    assert answer.headers["x-request-id"] == "mine"


def test_a_stub_may_raise_that_it_is_not_implemented(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """Type checkers accept no other empty body where a stub has a return type."""

    @app.get("/x", response_model=None)
    @bridge.endpoint("echo")
    async def own() -> int:
        """Return what no one reads."""
        raise NotImplementedError

    assert http.get("/x").json()["path"] == "/x"


def test_a_stub_that_raises_anything_else_is_refused(bridge: ServeBridge) -> None:
    """The author expects that the stub runs."""
    with pytest.raises(TypeError, match="own has a body"):

        @bridge.endpoint("echo")
        async def own() -> int:
            raise ValueError


def test_a_stub_with_a_body_is_refused(bridge: ServeBridge) -> None:
    """It would never run."""
    with pytest.raises(TypeError, match=r"own has a body.*'echo' answers"):

        @bridge.endpoint("echo")
        async def own(x: int) -> int:
            return x + 1


def test_a_misspelt_option_is_a_type_error(bridge: ServeBridge) -> None:
    """Where the stub is."""
    with pytest.raises(TypeError, match="timeout_s"):
        bridge.endpoint("echo", timeout=3)  # type: ignore[call-arg]


def test_importing_the_adapter_loads_no_framework() -> None:
    """A stub's signature is all that FastAPI looks at, so nothing of it is needed here."""
    program = "import serve_bridge.adapters.starlette.extension, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert not {"fastapi", "pydantic", "starlette.applications", "uvicorn"} & set(run.stdout.split())


# the other ways in


def test_a_mount_and_a_middleware_stand_in_fastapi(app: FastAPI, bridge: ServeBridge) -> None:
    """As in any Starlette application."""
    app.mount("/ml", bridge)
    app.add_middleware(ServeBridgeMiddleware, routes={"/x": "echo"}, bridge=bridge)
    with TestClient(app) as http:
        assert http.get("/ml/echo/1").json()["params"] == {"number": ["int", 1]}
        assert http.get("/x").json()["path"] == "/x"


def test_routes_and_websockets_without_types_stand_in_fastapi(app: FastAPI, bridge: ServeBridge) -> None:
    """Those are Starlette's own."""
    app.add_route("/x/{n:int}", bridge.forward("echo"))
    app.router.add_websocket_route("/chat/{room:int}", bridge.forward("chat"))
    with TestClient(app) as http:
        assert http.get("/x/1").json()["params"] == {"n": ["int", 1]}
        with http.websocket_connect("/chat/2") as socket:
            assert socket.receive_json()["params"] == {"room": ["int", 2]}


# handles


counter = get_handle("Counter", method_name="add")


def adding(app: FastAPI) -> None:
    """Let *app* add by a handle."""

    @app.post("/add")
    async def add(numbers: list[int], handle: Annotated[Handle, Depends(counter)]) -> int:
        answer = await handle.acall(numbers[0], by=str(numbers[1]))
        return int(answer["sum"])


def test_a_handle_is_a_dependency(bridge: ServeBridge) -> None:
    """Of the bridge whose lifespan the application has."""
    app = FastAPI(lifespan=bridge.lifespan)
    adding(app)
    with TestClient(app) as http:
        assert http.post("/add", json=[1, 2]).json() == 3


def test_a_handle_is_overridden_like_any_dependency(app: FastAPI, http: TestClient) -> None:
    """In the user's own tests."""

    class Fake:
        async def acall(self, *_: Any, **__: Any) -> Any:
            return {"sum": 42}

    adding(app)
    app.dependency_overrides[counter] = Fake
    assert http.post("/add", json=[1, 2]).json() == 42


def test_the_applications_state_may_hold_the_bridge(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """Where there is no lifespan."""
    app.state.serve_bridge = bridge
    adding(app)
    assert http.post("/add", json=[1, 2]).json() == 3


def test_without_any_bridge_the_application_gets_one(
    asgi_engine: serve.Client, app: FastAPI, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for all its handles, of the instance that is found."""
    monkeypatch.setenv("SERVE_BRIDGE_ADDRESS", asgi_engine.address)
    adding(app)
    assert [http.post("/add", json=[1, 2]).json() for _ in range(2)] == [3, 3]
    app.state.serve_bridge.close()


def test_no_instance_is_a_503(app: FastAPI, http: TestClient, tmp_path: Any) -> None:
    """With a time to come back."""
    app.state.serve_bridge = ServeBridge(str(tmp_path / "none.json"))
    adding(app)
    answer = http.post("/add", json=[1, 2])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_blocking_call_on_the_loop_names_its_twin(app: FastAPI, bridge: ServeBridge, http: TestClient) -> None:
    """`acall`."""
    seen: list[str] = []

    @app.get("/x")
    async def own() -> None:
        try:
            bridge.get_handle("Counter").call()
        except RuntimeError as error:
            seen.append(str(error))

    http.get("/x")
    assert "await handle.acall(...)" in seen[0]


def test_what_user_code_raises_reaches_the_caller_of_a_handle(
    app: FastAPI, bridge: ServeBridge, http: TestClient
) -> None:
    """As its own type, for the application's exception handlers."""
    seen: list[str] = []

    @app.get("/x")
    async def own() -> None:
        try:
            await bridge.get_handle("failing").acall()
        except (RuntimeError, BackendError) as error:
            seen.append(f"{type(error).__name__}: {error}")

    http.get("/x")
    assert json.dumps(seen) == '["RuntimeError: secret"]'
