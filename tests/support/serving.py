"""Putting code behind an endpoint in one line, and taking it away again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import serve_bridge as serve


@dataclass(frozen=True)
class Served:
    """A backend behind an endpoint.

    Attributes:
        name: Of both.
        route: Where it is over HTTP.
        handle: For calls from Python.
    """

    name: str
    route: str
    handle: serve.Handle


class Serving:
    """Makes backends and endpoints with names of their own; `end` takes them away."""

    def __init__(self, client: serve.Client, numbers: Iterator[int]) -> None:
        self._client = client
        self._numbers = numbers
        self._backends: list[str] = []
        self._endpoints: list[str] = []

    def __call__(
        self,
        code: Any,
        *init_args: Any,
        path: str = "",
        methods: Iterable[str] = ("GET", "POST"),
        timeout_s: float | None = None,
        config: Any = None,
        **init_kwargs: Any,
    ) -> Served:
        """Serve *code* under a name of its own, at `/<name>` followed by *path*."""
        backend = self.backend(code, *init_args, config=config, **init_kwargs)
        return self.endpoint(backend, path=path, methods=methods, timeout_s=timeout_s)

    def backend(self, code: Any, *init_args: Any, config: Any = None, **init_kwargs: Any) -> str:
        """Start a backend; return its name."""
        name = self.name()
        self._backends.append(name)
        self._client.create_backend(name, code, *init_args, config=config, **init_kwargs)
        return name

    def endpoint(
        self,
        backend: str,
        *,
        path: str = "",
        methods: Iterable[str] = ("GET", "POST"),
        timeout_s: float | None = None,
    ) -> Served:
        """Put an endpoint of the backend's own name in front of it."""
        self._endpoints.append(backend)
        self._client.create_endpoint(
            backend, backend=backend, route=f"/{backend}{path}", methods=methods, timeout_s=timeout_s
        )
        return Served(backend, f"/{backend}{path}", self._client.get_handle(backend))

    def mount(self, application: Any, *, route: str | None = None, config: Any = None) -> Served:
        """Serve *application* under a name of its own, below `/<name>` or *route*."""
        backend = self.backend(application, config=config)
        self._endpoints.append(backend)
        route = route or f"/{backend}"
        self._client.create_endpoint(backend, backend=backend, route=route)
        return Served(backend, route, self._client.get_handle(backend))

    def name(self) -> str:
        """Return a name that nothing else in this run has; what a test creates under it goes too."""
        name = f"b{next(self._numbers)}"
        self._backends.append(name)
        self._endpoints.append(name)
        return name

    def end(self) -> None:
        """Take away what was made."""
        for name in self._endpoints:
            self._client.delete_endpoint(name)
        known = self._client.list_backends()
        for name in self._backends:
            if name in known:
                self._client.delete_backend(name, force=True)
