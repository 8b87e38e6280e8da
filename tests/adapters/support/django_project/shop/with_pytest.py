"""The same in pytest-django's style."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.test import AsyncClient, Client

from shop.combinations import PATHS, STACKS, abody_of
from shop.models import Item


@pytest.mark.django_db
def test_client(client: Client) -> None:
    """In a transaction."""
    Item.objects.create(name="first")
    assert client.get("/count/").json() == 1


@pytest.mark.django_db(transaction=True)
def test_committed(client: Client) -> None:
    """Without one."""
    Item.objects.create(name="first")
    assert client.get("/count/").json() == 1


def test_live_server(live_server: Any, transactional_db: None) -> None:
    """Over a real socket."""
    from urllib.request import urlopen

    Item.objects.create(name="first")
    with urlopen(f"{live_server.url}/count/") as answer:
        assert answer.read() == b"1"


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("middleware", STACKS, ids=lambda stack: f"{stack[0]}-{stack[-1]}")
async def test_on_a_plain_loop(middleware: list[str], settings: Any) -> None:
    """Nothing gives the calls a thread of their own; no view, middleware, backend or handle waits for itself."""
    await Item.objects.acreate(name="first")
    settings.MIDDLEWARE = middleware
    client = AsyncClient()
    for path in PATHS:
        assert await abody_of(await client.get(path)) == b"1", path


@pytest.mark.asyncio
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("view", ["acalled", "aforwarded"])
async def test_concurrent_calls(view: str) -> None:
    """Two calls are in synchronous code at a time."""
    answers = await asyncio.gather(*(AsyncClient().get(f"/{view}/meeting/") for _ in range(2)))
    assert sorted([await abody_of(answer) for answer in answers]) == [b"0", b"1"]


@pytest.mark.asyncio
@pytest.mark.django_db
async def test_in_the_transaction_of_a_fixture(item: Item) -> None:
    """What the test's own thread has written is seen by all backends, whatever thread their views run in."""
    for path in PATHS:
        assert await abody_of(await AsyncClient().get(path)) == b"1", path


@pytest.fixture
def item() -> Item:
    """An item."""
    return Item.objects.create(name="first")
