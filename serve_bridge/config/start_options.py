"""The options of `start`, for each function with all of them."""

from __future__ import annotations

import os
from typing import Final, Literal

from serve_bridge.config.http_options import HTTPOptions, HTTPOptionsDict
from serve_bridge.config.network_options import NetworkOptionsDict

Runtime = Literal["ray", "local"]


class StartOptions(NetworkOptionsDict, total=False):
    """The options of `start` as keyword arguments; its docstring says what they mean."""

    detached: bool
    name: str
    http_options: HTTPOptions | HTTPOptionsDict | None
    address: str | None
    runtime: Runtime
    state: str | os.PathLike[str] | bool | None
    fresh: bool


START_DEFAULTS: Final[StartOptions] = {
    "detached": False,
    "name": "default",
    "http_options": None,
    "address": None,
    "runtime": "ray",
    "state": None,
    "fresh": False,
    "listen": None,
    "advertise": None,
    "data_ports": None,
    "key_file": None,
    "tls_cert": None,
    "tls_key": None,
    "tls_ca": None,
}
