"""Attributes of a request which belong to the web application in another process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import URL
from starlette.requests import Request
from starlette.types import Scope


class ApplicationAttributes(Mapping[str, Any]):
    """The attributes of a `ServeRequest` without a value here: each one raises an error with a way out."""

    __slots__ = ()
    _scope: Scope

    @property
    @abstractmethod
    def _request(self) -> Request: ...

    def url_for(self, name: str, /, **path_params: Any) -> URL:
        """Raise an error, because the routes belong to the web application.

        Raises:
            RuntimeError: Always, unless user code has put a router into the scope.
        """
        if not (self._scope.get("router") or self._scope.get("app")):
            raise RuntimeError(
                "request.url_for() has no routes here: they stay with the web application. Build the URL there and "
                "pass it on in the route's `context`, or begin with request.base_url"
            )
        return self._request.url_for(name, **path_params)

    @property
    def app(self) -> Any:
        """The web application, which runs in another process.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        if self._scope.get("app") is None:
            raise AttributeError(
                "request.app is not here: the web application runs in another process; "
                "the backend's own objects belong to its class"
            )
        return self._scope["app"]

    @property
    def session(self) -> Any:
        """The session, which stays with the web application.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        return self._of_the_application("session", "session.tenant")

    @property
    def user(self) -> Any:
        """The user, who stays with the web application.

        Raises:
            AttributeError: Always, unless user code has put one into the scope.
        """
        return self._of_the_application("user", "user.pk")

    @property
    def auth(self) -> Any:
        """The credentials, which stay with the web application.

        Raises:
            AttributeError: Always, unless user code has put them into the scope.
        """
        return self._of_the_application("auth", "auth.scopes")

    def _of_the_application(self, name: str, example: str) -> Any:
        if name not in self._scope:
            raise AttributeError(
                f"request.{name} stays with the web application. Name what the backend needs of it in the route's "
                f"`context`, such as {{'mine': '{example}'}}, and read request.state.mine"
            )
        return self._scope[name]
