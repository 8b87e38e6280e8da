"""What is special to Django."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.handlers.asgi import ASGIHandler
from django.test import Client, override_settings

import serve_bridge as serve
from serve_bridge.adapters.django import get_handle
from serve_bridge.adapters.django.checks import check_setting

TOKEN = "x" * 32


@pytest.fixture
def strict(django_front: httpx.Client) -> Client:
    """A browser to whom CSRF protection applies."""
    client = Client(enforce_csrf_checks=True)
    client.cookies["csrftoken"] = TOKEN
    return client


def test_a_forwarded_post_needs_the_csrf_token(strict: Client) -> None:
    """As any other view's."""
    assert strict.post("/protected", {"a": "b"}).status_code == 403


def test_a_token_in_the_header_is_enough(strict: Client) -> None:
    """The body goes on untouched."""
    answer = strict.post("/protected", {"a": "b"}, headers={"x-csrftoken": TOKEN})
    assert answer.json() == {"a": "b"}


def test_a_token_in_an_uploads_form_is_enough(strict: Client) -> None:
    """Django reads the form for it; the backend gets the same form."""
    upload = SimpleUploadedFile("f.txt", b"content", "text/plain")
    answer = strict.post("/protected", {"csrfmiddlewaretoken": TOKEN, "file": upload})
    assert answer.json()["file"] == ["f.txt", "content"]


def test_an_async_view_streams_under_asgi(django_front: httpx.Client) -> None:
    """Without a thread that waits."""

    async def get(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(ASGIHandler())
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
            return await http.get(path)

    assert len(asyncio.run(get("/async/chunks")).text) == 300_000
    assert asyncio.run(get("/async/missing")).status_code == 404


def test_a_handle_works_in_a_view(django_front: httpx.Client) -> None:
    """Under the settings' instance."""
    assert get_handle("counter").options(method_name="add").call(1, by="2") == {"sum": 3}


def test_no_instance_is_a_503(engine: serve.Client, tmp_path: Path, django_front: httpx.Client) -> None:
    """With a time to come back; changed settings hold at once."""
    with override_settings(SERVE_BRIDGE={"ADDRESS": str(tmp_path / "none.json")}):
        answer = django_front.get("/counter")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert django_front.get("/counter").text == "call"


@pytest.mark.parametrize(("setting", "said"), [({"ADRESS": 1}, "did you mean 'ADDRESS'"), ([], "must be a dict")])
def test_a_wrong_setting_is_a_failed_check(setting: Any, said: str) -> None:
    """With the nearest key."""
    with override_settings(SERVE_BRIDGE=setting):
        assert said in check_setting(None)[0].msg
