# ruff: noqa: PT009 - these are Django's own manners
"""The application's own tests, of each kind that Django has."""

from __future__ import annotations

import asyncio
from urllib.request import urlopen

from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import (
    AsyncClient,
    AsyncRequestFactory,
    Client,
    LiveServerTestCase,
    RequestFactory,
    SimpleTestCase,
    TestCase,
)
from django.test.utils import override_settings

from serve_bridge.adapters.django import abridge_view, bridge_view, get_handle
from shop.combinations import PATHS, STACKS, abody_of, body_of
from shop.models import Item


class InATransaction(TestCase):
    """A backend sees what the test has written, though it is never committed."""

    @classmethod
    def setUpTestData(cls) -> None:
        """Write."""
        cls.item = Item.objects.create(name="first")

    def test_client(self) -> None:
        """By the test client."""
        Item.objects.create(name="second")
        self.assertEqual(self.client.get("/count/").json(), 2)
        self.assertEqual(self.client.get(f"/names/{self.item.pk}/").content, b"first")

    def test_rolled_back(self) -> None:
        """Each test begins with what the class has."""
        self.assertEqual(self.client.get("/count/").json(), 1)

    def test_handle(self) -> None:
        """By a handle in a view, and in the test itself."""
        self.assertEqual(self.client.get("/called/count/").content, b"1")
        self.assertEqual(get_handle("count").call(), 1)

    def test_async_backend(self) -> None:
        """One that awaits the ORM."""
        self.assertEqual(self.client.get("/async/count/").json(), 1)

    async def test_async_client(self) -> None:
        """By the asynchronous test client."""
        await Item.objects.acreate(name="second")
        for path in ("/aforwarded/count/", "/count/", "/async/count/"):
            self.assertEqual((await self.async_client.get(path)).json(), 2)

    def test_request_factory(self) -> None:
        """By a view called with a request."""
        self.assertEqual(bridge_view("count")(RequestFactory().get("/")).content, b"1")

    async def test_async_request_factory(self) -> None:
        """By an asynchronous view called with a request."""
        self.assertEqual((await abridge_view("count")(AsyncRequestFactory().get("/"))).content, b"1")


class InEveryCombination(TestCase):
    """No view, middleware, backend or handle waits for itself, and all see what the test has written."""

    def test_client(self) -> None:
        """Under WSGI."""
        Item.objects.create(name="first")
        for middleware in STACKS:
            with override_settings(MIDDLEWARE=middleware):
                client = Client()
                for path in PATHS:
                    with self.subTest(path, middleware=middleware):
                        self.assertEqual(body_of(client.get(path)), b"1")

    async def test_async_client(self) -> None:
        """Under ASGI, one after another and at a time."""
        await Item.objects.acreate(name="first")
        for middleware in STACKS:
            with override_settings(MIDDLEWARE=middleware):
                client = AsyncClient()
                for path in PATHS:
                    with self.subTest(path, middleware=middleware):
                        self.assertEqual(await abody_of(await client.get(path)), b"1")

    async def test_concurrent_calls(self) -> None:
        """Two calls are in synchronous code at a time."""
        for view in ("acalled", "aforwarded"):
            client = AsyncClient()
            answers = await asyncio.gather(*(client.get(f"/{view}/meeting/") for _ in range(2)))
            self.assertEqual(sorted([await abody_of(answer) for answer in answers]), [b"0", b"1"])


class LoggedIn(TestCase):
    """Who may ask is the project's to say; what the backend knows of them is the route's."""

    @classmethod
    def setUpTestData(cls) -> None:
        """Make a user."""
        cls.user = get_user_model().objects.create_user("ada")

    def test_anonymous(self) -> None:
        """`LoginRequiredMiddleware` holds."""
        self.assertEqual(self.client.get("/me/").status_code, 302)

    def test_user(self) -> None:
        """The user and the session go along, the cookie does not."""
        self.client.force_login(self.user)
        session = self.client.session
        session["theme"] = "dark"
        session.save()
        self.assertEqual(self.client.get("/me/").json(), [self.user.pk, "dark", False])

    async def test_user_async(self) -> None:
        """The same under ASGI."""
        await self.async_client.aforce_login(self.user)
        self.assertEqual((await self.async_client.get("/me/")).json(), [self.user.pk, None, False])


class OnALiveServer(LiveServerTestCase):
    """A backend sees what the test has committed."""

    def test_server(self) -> None:
        """By a real socket."""
        Item.objects.create(name="first")
        for path in ("/count/", "/async/count/"):
            with urlopen(self.live_server_url + path) as answer:
                self.assertEqual(answer.read(), b"1")


class WithoutADatabase(SimpleTestCase):
    """A route that is not forwarded, and a runtime that is not there."""

    def test_not_found(self) -> None:
        """The project answers."""
        self.assertEqual(self.client.get("/nothing/").status_code, 404)

    @override_settings(SERVE_BRIDGE={**settings.SERVE_BRIDGE, "ADDRESS": "/nonexistent/instance.json", "RUNTIME": None})
    def test_no_instance(self) -> None:
        """As in production."""
        self.assertEqual(self.client.get("/count/").status_code, 503)
