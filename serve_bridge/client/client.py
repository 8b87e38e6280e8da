"""The client: a connection of this process to one instance, for users."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from starlette.requests import Request

from serve_bridge.client.backend_shapes import BackendClass, BackendFunction
from serve_bridge.client.call_options import CallOptions
from serve_bridge.client.handle import AsyncHandle, Data, Handle, Value
from serve_bridge.client.instance_link import InstanceLink
from serve_bridge.client.instance_search import find_instance, link_to
from serve_bridge.config.checks import path_text
from serve_bridge.config.deploy_options import DEPLOY_DEFAULTS, DeployOptions
from serve_bridge.config.names import existing_name
from serve_bridge.config.signatures import shows_options
from serve_bridge.errors import EndpointNotFound
from serve_bridge.management.management import Management
from serve_bridge.request.serve_request import ServeRequest

if TYPE_CHECKING:
    from serve_bridge.deployment.result import Deployment


class Client(Management):
    """A connection of this process to one instance. `start` and `connect` make it; it is safe to share between threads.

    A client opens no socket and starts no thread before its first use. After a fork it works in the child too.
    """

    def __init__(self, link: Any, /) -> None:
        """Use *link*; `start` and `connect` make clients."""
        super().__init__(link)
        self._link: InstanceLink = link  # not said in the signature, since nothing of it is public

    @property
    def name(self) -> str:
        """The instance's name."""
        return self._link.name

    @property
    def address(self) -> str:
        """The address for `connect` and SERVE_BRIDGE_ADDRESS."""
        return self._link.address

    @property
    def generation(self) -> str:
        """The id of this start of the instance. A later start under the same name has another one."""
        return self._link.instance.generation

    @property
    def lost(self) -> bool:
        """Whether this process has lost the controller, for a moment or for good. Calls may still work without it."""
        return self._link.lost

    def shutdown(self, forget: bool = True) -> None:
        """Drain and stop the whole instance, and remove every key and file that it made. A second call does nothing.

        Args:
            forget: Remove the kept state too. Otherwise the next start of the name restores it.

        Raises:
            ControlPlaneLost: Ray's control plane does not answer, so nothing was ended. Try again once it is back.
        """
        self._link.shutdown(forget=forget)

    def close(self) -> None:
        """Disconnect this process from the instance, which keeps running. A second call does nothing.

        An instance that is not detached still ends with the process that started it.
        """
        self._link.close()

    @shows_options(DeployOptions, DEPLOY_DEFAULTS)
    def deploy(self, *modules_or_objects: object, **options: Unpack[DeployOptions]) -> Deployment:
        """Make the instance match the declarations, by rolling updates. A second deployment changes nothing.

        Backends get their code and declared options, endpoints their route, HTTP methods and time limit. An option that
        is not declared stays as the operator set it. An option that is no longer declared returns to its default.

        Args:
            modules_or_objects: Modules, or their import paths "package.module"; or declared functions, classes and
                endpoints.
            options: Options of the deployment:

                - project (str, default: top package of the first declaration): The owner of the deployment. Names that
                  another project deployed, or that were made by hand, are an error.
                - traffic (bool, default False): Let declared traffic and shadows replace those of existing endpoints.
                  Otherwise they apply to new endpoints only, and the result has a note where they differ.
                - prune (bool, default False): Delete the backends and endpoints that this project deployed before and
                  that *modules_or_objects* does not declare. The log of `serve_bridge.deployment` names them first. It
                  never deletes what was made by hand.
                - force (bool, default False): Replace the replicas of every declared backend, changed or not.
                - dry_run (bool, default False): Change nothing. The result lists the planned changes.
                - take_over (bool, default False): Take over the declared names that another project, or a person, has
                  made.

        Returns:
            The changes that were made.

        Raises:
            TypeError: An object is not declared, or an option is unknown.
            ConfigError: No object is named; a module declares nothing; declarations contradict each other; a name has
                another owner; or a new endpoint has several backends and no declared traffic. Nothing has changed.
            SerializationError: A declared object cannot be pickled. Nothing has changed.
            DeploymentError: A change failed. The error says which changes were made.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        from serve_bridge.deployment.deploy import deploy  # late: few processes deploy

        return deploy(*modules_or_objects, client=self._link, **options)

    @overload
    def get_handle(self, endpoint: str, missing_ok: bool = False, sync: Literal[True] = True) -> Handle: ...

    @overload
    def get_handle(self, endpoint: str, missing_ok: bool = False, *, sync: Literal[False]) -> AsyncHandle: ...

    @overload
    def get_handle(self, endpoint: str, missing_ok: bool, sync: Literal[False]) -> AsyncHandle: ...

    @overload
    def get_handle(self, endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle: ...

    def get_handle(self, endpoint: str, missing_ok: bool = False, sync: bool = True) -> Handle:
        """Return a handle that calls *endpoint*.

        Args:
            endpoint: The endpoint's name.
            missing_ok: Return a handle for an unknown endpoint too. Its calls raise `EndpointNotFound` until the
                endpoint exists.
            sync: False: return an `AsyncHandle`, whose `remote` is awaited.

        Raises:
            EndpointNotFound: The endpoint does not exist, and *missing_ok* is not set. It is a KeyError.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        self._link.check_open()
        existing_name("endpoint", endpoint)
        # The table may not have arrived yet, or may miss a recent change of another process. So it is not a proof.
        if not missing_ok and not self._link.routes_now(endpoint):
            endpoints = self._link.endpoints()
            if endpoint not in endpoints:
                raise EndpointNotFound(endpoint, tuple(endpoints))
        return (Handle if sync else AsyncHandle)(self._link, endpoint, CallOptions())

    @overload
    def handle(
        self, backend: type[BackendClass[[ServeRequest[Data]], Awaitable[Value]]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: type[BackendClass[[ServeRequest[Data]], Value]], /) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: type[BackendClass[[Request], Awaitable[Value]]], /) -> Handle[[Any], Value]: ...

    @overload
    def handle(self, backend: type[BackendClass[[Request], Value]], /) -> Handle[[Any], Value]: ...

    @overload
    def handle(
        self, backend: type[BackendClass[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def handle(
        self, backend: type[BackendClass[[list[ServeRequest[Data]]], Sequence[Value]]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: type[Any], /) -> Handle: ...

    @overload
    def handle(self, backend: Callable[[ServeRequest[Data]], Awaitable[Value]], /) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: Callable[[ServeRequest[Data]], Value], /) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: Callable[[Request], Awaitable[Value]], /) -> Handle[[Any], Value]: ...

    @overload
    def handle(self, backend: Callable[[Request], Value], /) -> Handle[[Any], Value]: ...

    @overload
    def handle(
        self, backend: Callable[[list[ServeRequest[Data]]], Awaitable[Sequence[Value]]], /
    ) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: Callable[[list[ServeRequest[Data]]], Sequence[Value]], /) -> Handle[[Data], Value]: ...

    @overload
    def handle(self, backend: BackendFunction[Awaitable[Value]], /) -> Handle[[], Value]: ...

    @overload
    def handle(self, backend: BackendFunction[Value], /) -> Handle[[], Value]: ...

    def handle(self, backend: Any, /) -> Handle[..., Any]:
        """Return a typed handle of a declared backend: it calls the backend's endpoint.

        ::

            @serve.backend("mood")
            class Mood:
                def __call__(self, request: serve.ServeRequest[str]) -> float: ...
                def count(self, by: int = 1) -> int: ...

            serve.handle(Mood).call("a fine day")  # a float
            serve.handle(Mood).method(Mood.count).call(5)  # an int

        A backend takes a request, so a call takes one value: the request's `data`. `ServeRequest[str]` gives its type.
        The result has the type that the backend returns. Of an `async def` it is the awaited type, and of batched code
        the type of one item.

        Args:
            backend: A function or class with `@serve.backend(...)`. If several backends share the endpoint, its traffic
                decides which of them answers a call.

        Raises:
            TypeError: *backend* is not declared.
            ConfigError: *backend* is an application, which is called over HTTP only.
            EndpointNotFound: The endpoint does not exist. It is a KeyError.
            NotConnected: No instance answers.
            InstanceClosed: The instance was shut down.
        """
        from serve_bridge.deployment.declaration import called_declaration  # late: most workers call by name

        return self.get_handle(called_declaration(backend).endpoint)

    def __reduce__(self) -> Any:
        raise TypeError("a client cannot be pickled; pass a handle, or client.address to serve_bridge.connect()")

    def __repr__(self) -> str:
        return f"Client(address={self.address!r})"


def find_client(address: str | os.PathLike[str] | None, name: str) -> Client:
    """Return a new client of the instance, as `connect` does. It does not become the current one.

    Raises:
        NotConnected, ConfigError: As `connect`.
    """
    given = None if address is None else path_text("address", address)
    return Client(link_to(find_instance(given, name), given))


def link_of(client: Client) -> InstanceLink:
    """Return the link of *client*: for parts of this package with more needs than the public methods cover."""
    return client._link
