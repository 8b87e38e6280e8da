"""The same in pytest-django's style."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

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
