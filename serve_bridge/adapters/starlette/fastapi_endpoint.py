"""A typed stub of a path operation: FastAPI validates requests by its signature, and an endpoint answers them.

    @app.post("/predict/{item_id}")
    @bridge.endpoint("predict")
    async def predict(item_id: int, features: Features) -> Prediction:
        raise NotImplementedError

Rule 1: FastAPI reads only a signature, so nothing of FastAPI is imported before an answer violates its model.
Rule 2: the validation decides whether a request is forwarded. The bridge forwards the original request and body, not
        the validated values.
Rule 3: the body of a stub never runs, so a stub must not have one.
Rule 4: the answer is the backend's. The response model of the route applies to JSON; see `response_model`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_bridge.adapters.asgi.answers import http_exception, send_answer
from serve_bridge.adapters.asgi.forwarding import ask
from serve_bridge.adapters.asgi.requester import Requester, consumed
from serve_bridge.adapters.bridge.asgi_scope import readable
from serve_bridge.adapters.bridge.file_body import receive_from
from serve_bridge.adapters.bridge.form_body import MULTIPART, URLENCODED, FormBody, FormFile, FormPart
from serve_bridge.adapters.bridge.forwarded_route import ForwardedRoute
from serve_bridge.adapters.bridge.outcome import Outcome
from serve_bridge.adapters.starlette.response_model import (
    applies_to,
    asking_for_all,
    content_of,
    describe,
    has_model,
    of_dependencies,
    without_length,
)
from serve_bridge.adapters.starlette.stub import REQUEST_PARAMETER, RESPONSE_PARAMETER, is_empty, with_own_parameters
from serve_bridge.http.headers import HeaderList
from serve_bridge.wire.heads import INLINE_BODY_BYTES

if TYPE_CHECKING:
    from serve_bridge.adapters.bridge.bridge import Bridge

Operation = Callable[..., Coroutine[Any, Any, Any]]


def operation_of(stub: Callable[..., Any], bridge: Bridge, route: ForwardedRoute) -> Operation:
    """Return a path operation with the signature and the docstring of *stub*. It forwards its requests.

    Raises:
        TypeError: *stub* is not a function, or it has a body, which would never run.
    """
    if not inspect.isfunction(stub):
        raise TypeError(f"@bridge.endpoint decorates a function, got {type(stub).__name__}")
    if not is_empty(stub):
        raise TypeError(
            f"{stub.__qualname__} has a body, and it would never run: {route.endpoint!r} answers. "
            "Leave a docstring, `...`, `pass` or `raise NotImplementedError`; "
            "code that must run before belongs in a dependency"
        )
    path_types = (int, float, UUID, str)

    @functools.wraps(stub)
    async def operation(**arguments: Any) -> Any:
        request: Request = arguments.pop(REQUEST_PARAMETER)
        response: Response = arguments.pop(RESPONSE_PARAMETER)
        path_params = {
            name: arguments[name] if type(arguments.get(name)) in path_types else text
            for name, text in request.path_params.items()
        }
        outcome, requester = await _ask(bridge, route, path_params, request, arguments)
        if outcome.error is not None:
            raise http_exception(outcome) from outcome.error
        if has_model(request.scope) and applies_to(outcome):
            if request.method != "HEAD":
                content = await content_of(outcome, requester)
                describe(outcome, response)
                return content
            outcome = without_length(outcome)
        return ForwardedResponse(outcome, requester, of_dependencies(response))

    operation.__signature__ = with_own_parameters(inspect.signature(stub))  # type: ignore[attr-defined]
    return operation


class ValidatedRequest(Request):
    """The request for the `context` of the route, with the arguments that FastAPI has validated.

    Attributes:
        arguments: The arguments of the stub by name: validated values, and the results of dependencies.
    """

    def __init__(self, request: Request, arguments: Mapping[str, Any]) -> None:
        super().__init__(request.scope, request.receive)
        self.arguments = arguments


class ForwardedResponse(Response):
    """An answer of user code, with the headers *added* by the web process. FastAPI adds background tasks to it."""

    def __init__(self, outcome: Outcome, requester: Requester, added: HeaderList) -> None:
        self.status_code: int = outcome.status
        self.raw_headers: list[tuple[bytes, bytes]] = [*outcome.headers, *added]
        self.body: bytes = outcome.body if isinstance(outcome.body, bytes) else b""
        self.background: None = None
        self._content = outcome.body
        self._requester = requester

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then run the background tasks."""
        await send_answer(self.status_code, self.raw_headers, self._content, scope, send, self._requester)
        if self.background is not None:
            await self.background()


async def _ask(
    bridge: Bridge,
    route: ForwardedRoute,
    path_params: Mapping[str, Any],
    request: Request,
    arguments: Mapping[str, Any],
) -> tuple[Outcome, Requester]:
    web_request = ValidatedRequest(request, arguments) if route.context is not None else None
    requester = Requester(request.scope, request.receive)
    body = _body_of(request)
    scope: Scope = readable(request.scope)
    if has_model(scope):
        scope = {**scope, "headers": asking_for_all(scope["headers"])}
    source: bytes | Receive = requester
    if body is not None:
        requester.has_whole_body()
        if isinstance(body, FormBody):
            scope = body.scope(scope)
            on_disk = body.length is None or body.length > INLINE_BODY_BYTES
            source = receive_from(body, body.length, on_disk=on_disk)
        else:
            source = body
    return await ask(bridge, route, scope, path_params, source, web_request, requester), requester


def _body_of(request: Request) -> bytes | FormBody | None:
    """Return the body if FastAPI has read it, otherwise None.

    Raises:
        ConfigError: A dependency has read the body and not kept it.
    """
    if hasattr(request, "_body"):
        return bytes(request._body)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request._form is not None and media_type in (URLENCODED, MULTIPART):  # Starlette leaves other bodies unread
        return FormBody(_parts(request._form), urlencoded=media_type == URLENCODED)
    if request._stream_consumed:
        raise consumed()
    return None


def _parts(form: FormData) -> Iterator[FormPart]:
    for name, value in form.multi_items():
        if isinstance(value, str):
            yield name, value
        else:
            headers = [(field, _utf8(text)) for field, text in value.headers.items()]
            media_type = _utf8(value.content_type or "")
            yield FormFile(name, value.filename or "", media_type, value.file, value.size, headers)


def _utf8(text: str) -> str:
    """Return the text of a part's header; Starlette has decoded its bytes as Latin-1."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")
