"""A store of the checkpoint that does not answer for a while, such as Ray's control plane, while replicas change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import serve_bridge as serve
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.errors import ControlPlaneLost
from tests.support.waiting import wait_until, wait_until_equal


class Store:
    """Refuses some checkpoints.

    Attributes:
        answers: For the next checkpoints, whether each one is written. The last entry is for all later ones.
        refused: The number of refused checkpoints.
    """

    def __init__(self) -> None:
        self.answers = [True]
        self.refused = 0

    def check(self) -> None:
        """Refuse a checkpoint, or let it pass."""
        if not (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]):
            self.refused += 1
            raise ControlPlaneLost("the store does not answer")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of the instance."""
    store, save = Store(), Checkpoints.save

    async def checked(self: Checkpoints, *args: Any) -> None:
        store.check()
        await save(self, *args)

    monkeypatch.setattr(Checkpoints, "save", checked)
    return store


@pytest.fixture
def client(store: Store) -> Iterator[serve.Client]:
    """An instance with this store."""
    client = serve.start(runtime="local", name="lost-store", http_options={"location": "NoServer"})
    yield client
    store.answers = [True]
    client.shutdown()


class Fading:
    """Fails its health checks while a file is there, unless it was constructed after that file was."""

    def __init__(self, ill: Path) -> None:
        self._ill, self._is_new = ill, ill.exists()

    def check_health(self) -> None:
        """Fail."""
        if self._ill.exists() and not self._is_new:
            raise RuntimeError("ill")

    def __call__(self, request: Any) -> bool:
        """Return whether this replica is a new one."""
        return self._is_new


def answer(client: serve.Client) -> object:
    """Return what the backend answers; None if it has no replica."""
    with contextlib.suppress(serve.BackendOverloaded):
        return client.get_handle("e").call()
    return None


def states(client: serve.Client) -> list[str]:
    """Return the states of the replicas."""
    return sorted(client.status()["backends"]["b"]["replicas"].values())


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["first", "later"])
def test_a_replica_that_is_lost_meanwhile_is_replaced_afterwards(
    client: serve.Client, store: Store, tmp_path: Path, answers: list[bool]
) -> None:
    """Whichever checkpoint of the repair is the first that is refused."""
    client.create_backend("b", Fading, tmp_path / "ill", config={"health_check_period_s": 0.05})
    client.create_endpoint("e", backend="b")
    store.answers = answers
    (tmp_path / "ill").touch()
    wait_until(lambda: store.refused)
    store.answers = [True]
    wait_until(lambda: answer(client), timeout_s=60)
    wait_until_equal(lambda: states(client), ["ready"])


def test_a_smaller_number_of_replicas_leaves_none_that_drains_for_ever(client: serve.Client, store: Store) -> None:
    """Even if the store answers no more once it has the new number."""
    client.create_backend("b", lambda request: None, config={"num_replicas": 2})
    store.answers = [True, False]
    client.update_backend_config("b", {"num_replicas": 1})
    wait_until_equal(lambda: states(client), ["ready"])
    assert store.refused
