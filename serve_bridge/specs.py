"""What an instance, its replicas and its proxies are started from."""

from __future__ import annotations

from dataclasses import dataclass

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.config.http_options import HTTPOptions
from serve_bridge.instance.instance_file import Instance
from serve_bridge.wire.heads import ReplicaAddress


@dataclass(frozen=True)
class Settings:
    """What an instance is started from.

    Attributes:
        name, generation: Which instance, and which start of it.
        runtime: "ray" or "local".
        directory: Where its sockets and its file are, on the node it is started on.
        detached: Whether it outlives the process that started it.
        tcp_host: Address to listen on for other nodes; None: unix sockets only.
        http: Where proxies listen, and their limits.
        node: The node it is started on; empty with the local runtime.
    """

    name: str
    generation: str
    runtime: str
    directory: str
    detached: bool
    tcp_host: str | None
    http: HTTPOptions
    node: str = ""


@dataclass(frozen=True)
class ReplicaSpec:
    """What a replica is started from.

    Attributes:
        replica, backend: Its id, and the backend it is one of.
        instance: The instance it belongs to, with the keys of Python code only.
        directory: Where its unix socket goes, on the controller's node; on another node the runtime chooses.
        tcp_host: Address to listen on for other nodes; None: no TCP.
        code: What `frozen_code.freeze_code` returned.
        config: The backend's options, resolved.
    """

    replica: str
    backend: str
    instance: Instance
    directory: str
    tcp_host: str | None
    code: bytes
    config: BackendConfig


@dataclass(frozen=True)
class ProxySpec:
    """One proxy.

    Attributes:
        proxy: Its id, unique in the instance.
        node: The node it belongs on.
        generation: The instance it belongs to.
        controller: Where the controller publishes the routing table.
        directory: Where its unix socket, for the controller, goes; on another node the runtime chooses.
        tcp_host: Address to listen on for the controller of another node; None: no TCP.
        http: Where it listens for the world, and its limits.
    """

    proxy: str
    node: str
    generation: str
    controller: ReplicaAddress
    directory: str
    tcp_host: str | None
    http: HTTPOptions
