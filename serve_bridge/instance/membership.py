"""The instances that this process is a part of, as a replica is. Their clients in this process need no file."""

from __future__ import annotations

from serve_bridge.instance.instance import Instance

_joined: dict[str, Instance] = {}


def join(instance: Instance) -> None:
    """Note that this process is a part of *instance*."""
    _joined[instance.generation] = instance


def joined(generation: str) -> Instance | None:
    """Return the instance of *generation* if this process is a part of it."""
    return _joined.get(generation)


def leave(generation: str) -> None:
    """Note that this process is no longer a part of the instance of *generation*."""
    _joined.pop(generation, None)
