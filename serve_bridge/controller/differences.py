"""How the options of a running instance differ from the options of another start."""

from __future__ import annotations

from serve_bridge.config.http_options import HTTPOptions, http_differences
from serve_bridge.config.network_options import NetworkOptions, network_differences
from serve_bridge.specs import InstanceSpec


async def differences(
    spec: InstanceSpec, http: HTTPOptions, detached: bool, state: str | None = "", network: NetworkOptions | None = None
) -> list[str]:
    """Return the differences between the options of the instance and these.

    Any state directory is right for "", and any network for None: earlier clients do not give them.
    """
    pairs: list[tuple[str, object, object]] = [("detached", spec.detached, detached)]
    if state != "":
        pairs.append(("state", spec.state or False, state or False))
    own = [f"{name} is {was}, not {asked}" for name, was, asked in pairs if was != asked]
    others = [] if network is None else network_differences(spec.network, network)
    return [*own, *http_differences(spec.http, http), *others]
