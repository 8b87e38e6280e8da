"""The status of an instance, as its controller reports it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """One node of the cluster.

    Attributes:
        address: Its address.
        proxy: URL of its proxy; None: it has none.
        failure: Why the proxy could not start; None: it did, or the node needs none.
    """

    address: str
    proxy: str | None
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class ProxyStatus:
    """One proxy.

    Attributes:
        url: Its base URL.
        refused: Number of refused requests, by HTTP status; None: the proxy does not answer.
    """

    url: str
    refused: dict[str, int] | None


class UpdateStatusDict(TypedDict):
    """The update of a backend that runs, or whose last try was undone.

    It is a dict, because earlier versions unpickle the status, and do not know this class.

    Attributes:
        state: "runs"; "is undone" while the replaced replicas return to the old code; "undone".
        version: The version in the declaration of the new code, or its fingerprint; None: it is given by hand.
        wanted: Number of replicas with the new code at its end.
        new, old: Number of replicas with the new code, and with the old one. Starting and draining ones do not count.
        failure: Why it has stopped; None: it runs.
    """

    state: str
    version: str | None
    wanted: int
    new: int
    old: int
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class BackendStatus:
    """One backend and its replicas.

    Attributes:
        wanted: Number of replicas in its options.
        replicas: State of each replica, by the replica's id.
        failure: Why replicas are missing, or were until a moment ago; None: no known failure.
        failed: Whether the replicas fail again and again, so the user should act.
        last_end: How the process of the last lost replica ended; None: no replica was lost in the last minute.
        owner: The project of its deployment; None: it was made by hand.
        version: The version in its declaration.
        deployed_at: When its deployment began, in seconds since the epoch.
        fingerprint: Fingerprint of the deployed code; "": the code was given by hand.
        declared: Names of the options in its declaration.
        search_path: Directories from which replicas import the code.
        update: Its update, if one runs or the last one was undone; None: the last one is complete.
    """

    wanted: int
    replicas: dict[str, str]
    failure: str | None
    failed: bool
    last_end: str | None
    owner: str | None
    version: str | None
    deployed_at: float | None
    fingerprint: str
    declared: list[str]
    search_path: list[str]
    update: UpdateStatusDict | None = None


@dataclass(frozen=True, kw_only=True)
class EndpointStatus:
    """One endpoint.

    Attributes:
        route: Its path over HTTP; None: Python callers only.
        methods: Its HTTP methods.
        timeout_s: Upper limit for a request, in seconds; None: only the caller has a limit.
        traffic: Weight of each backend.
        shadows: Share of the requests to copy, for each backend.
        owner: The project of its deployment; None: it was made by hand.
        version: None; only backends have a version.
        deployed_at: When its deployment began, in seconds since the epoch.
    """

    route: str | None
    methods: list[str]
    timeout_s: float | None
    traffic: dict[str, float]
    shadows: dict[str, float]
    owner: str | None
    version: str | None
    deployed_at: float | None


@dataclass(frozen=True, kw_only=True)
class DeploymentStatus:
    """An incomplete deployment: it runs, was interrupted, or failed.

    Attributes:
        project: Its owner.
        begun_at: When it began, in seconds since the epoch.
        running: Whether it runs.
        begun: The last changes to begin.
        left: The changes after these.
        failure: Why a change failed; None: no change has failed.
    """

    project: str
    begun_at: float
    running: bool
    begun: list[str]
    left: list[str]
    failure: str | None


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """The status of an instance.

    Attributes:
        name: Its name.
        nodes: The nodes of its cluster, by id.
        http_urls: Base URLs of the proxies.
        proxies: The proxies, by id.
        table_version: Version of the newest routing table.
        backends, endpoints: Its backends and endpoints, by name.
        deployments: Incomplete deployments.
    """

    name: str
    nodes: dict[str, NodeStatus]
    http_urls: list[str]
    proxies: dict[str, ProxyStatus]
    table_version: int
    backends: dict[str, BackendStatus]
    endpoints: dict[str, EndpointStatus]
    deployments: list[DeploymentStatus]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as dicts, lists and plain values, for users and for JSON."""
        status: dict[str, Any] = msgspec.to_builtins(self)
        return status
