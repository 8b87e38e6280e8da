"""The next revision of a backend after an update."""

from __future__ import annotations

import pytest

from serve_bridge.config.backend_config import BackendConfig
from serve_bridge.errors import ConfigError
from serve_bridge.specs import BackendSpec, BackendUpdate, Origin
from serve_bridge.wire.opaque import Opaque

DEPLOYED = Origin("shop", 7.0, version="2", fingerprint="f", declared=("num_replicas",), search_path=("/shop",))


def backend(origin: Origin | None = None) -> BackendSpec:
    """Return a backend of two replicas."""
    return BackendSpec("b", b"old", False, BackendConfig(num_replicas=2), Opaque({"num_cpus": 1}), origin=origin)


def test_an_update_has_new_code_and_the_next_revision() -> None:
    """Options that the update does not give stay."""
    old = backend()
    new = old.updated(BackendUpdate(name="b", code=b"new", is_async=True, is_application=False))
    assert (new.code, new.is_async, new.revision) == (b"new", True, 2)
    assert (new.config, new.actor_options) == (old.config, old.actor_options)


def test_an_update_changes_the_options_that_it_gives() -> None:
    """The other options stay."""
    options = Opaque({"num_cpus": 2})
    update = BackendUpdate(
        name="b",
        code=b"new",
        is_async=True,
        is_application=False,
        config=BackendConfig(max_queued_queries=5),
        actor_options=options,
    )
    new = backend().updated(update)
    assert (new.config.num_replicas, new.config.max_queued_queries) == (2, 5)
    assert new.actor_options is options


def test_code_by_hand_keeps_the_owner_of_a_backend() -> None:
    """Its fingerprint, version and declared options no longer apply."""
    update = BackendUpdate(name="b", code=b"new", is_async=False, is_application=False)
    assert backend(DEPLOYED).updated(update).origin == Origin("shop", 7.0)


def test_a_deployment_brings_its_own_origin() -> None:
    """The origin of the old code is replaced."""
    update = BackendUpdate(name="b", code=b"new", is_async=False, is_application=False, origin=DEPLOYED)
    assert backend(Origin("other")).updated(update).origin == DEPLOYED


def test_an_update_cannot_make_other_code_an_application() -> None:
    """The endpoints of the backend depend on its kind."""
    with pytest.raises(ConfigError, match="backend of its own"):
        backend().check_same_kind(True)
