"""The dicts that `status` and `list_endpoints` return, for type checkers. A test compares them with the classes."""

from __future__ import annotations

from typing import TypedDict

from serve_bridge.instance.instance_status import UpdateStatusDict


class NodeStatusDict(TypedDict):
    """One node of the cluster.

    Attributes:
        address: Its address.
        proxy: URL of its proxy; None: it has none.
        failure: Why the proxy could not start; None: it did, or the node needs none.
    """

    address: str
    proxy: str | None
    failure: str | None


class ProxyStatusDict(TypedDict):
    """One proxy.

    Attributes:
        url: Its base URL.
        refused: Number of refused requests, by HTTP status; None: the proxy does not answer.
    """

    url: str
    refused: dict[str, int] | None


class BackendStatusDict(TypedDict):
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
    update: UpdateStatusDict | None


class EndpointStatusDict(TypedDict):
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


class DeploymentStatusDict(TypedDict):
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


class InstanceStatusDict(TypedDict):
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
    nodes: dict[str, NodeStatusDict]
    http_urls: list[str]
    proxies: dict[str, ProxyStatusDict]
    table_version: int
    backends: dict[str, BackendStatusDict]
    endpoints: dict[str, EndpointStatusDict]
    deployments: list[DeploymentStatusDict]


class EndpointDict(TypedDict):
    """One endpoint, as `list_endpoints` returns it. Every key is always there.

    Attributes:
        route: Its path over HTTP; None: Python callers only.
        methods: Its HTTP methods.
        timeout_s: Upper limit for a request, in seconds; None: only the caller has a limit.
        traffic: Weight of each backend.
        shadows: Share of the requests to copy, for each backend.
    """

    route: str | None
    methods: list[str]
    timeout_s: float | None
    traffic: dict[str, float]
    shadows: dict[str, float]
