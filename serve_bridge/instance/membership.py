"""The instances of this process, which is one of their replicas. Clients of these instances need no file here."""

from __future__ import annotations

from serve_bridge.instance.instance import Instance

_joined: dict[str, Instance] = {}


def join(instance: Instance) -> None:
    """Note *instance* as an instance of this process."""
    _joined[instance.generation] = instance


def joined(generation: str) -> Instance | None:
    """Return the instance of *generation*, if it is one of this process."""
    return _joined.get(generation)


def leave(generation: str) -> None:
    """Forget the instance of *generation*."""
    _joined.pop(generation, None)
