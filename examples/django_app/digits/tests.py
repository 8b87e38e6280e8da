"""The tests of the application. Its backends run in this process, without Ray: `manage.py test` needs nothing else."""

# ruff: noqa: PT009 - these are unittest's, as Django's own are
# mypy: allow-subclassing-any, allow-untyped-decorators

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, cast

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import AsyncClient, Client, SimpleTestCase, TestCase, override_settings
from django.urls import reverse
from PIL import Image

from examples.digits import held_out
from examples.django_app.digits.backends import V1, V2
from examples.django_app.digits.forms import SplitForm
from examples.django_app.digits.traffic import versions
from serve_bridge.adapters.django import get_client

SAMPLES = Path(settings.STATICFILES_DIRS[0]) / "samples"


class ServedTestCase(TestCase):
    """Runs the backends while the tests of a class run."""

    @classmethod
    def setUpClass(cls) -> None:
        """Let the setting start them, at first use."""
        super().setUpClass()
        cls.enterClassContext(override_settings(SERVE_BRIDGE={"RUNTIME": "local"}))
        get_client().update_backend_config("guesses", {"user_config": {"pause_s": 0}})

    @classmethod
    def setUpTestData(cls) -> None:
        """Make a user and a member of the staff."""
        cls.ada = get_user_model().objects.create_user("ada")
        cls.grace = get_user_model().objects.create_superuser("grace")

    def setUp(self) -> None:
        """Log the user in."""
        self.client.force_login(self.ada)


class ReadTests(ServedTestCase):
    """The page with the upload."""

    def upload(self, content: bytes) -> Any:
        """Send a file."""
        return self.client.post(reverse("digits:read"), {"image": SimpleUploadedFile("digit.png", content)})

    def test_a_picture_is_read_and_kept(self) -> None:
        """The answer is shown, and belongs to the user."""
        answer = self.upload((SAMPLES / "6.png").read_bytes())
        self.assertContains(answer, "It is a <strong>6</strong>")
        self.assertEqual([(reading.digit, reading.version) for reading in self.ada.readings.all()], [(6, V1)])

    def test_what_is_no_picture_is_refused(self) -> None:
        """The form refuses it before any backend."""
        answer = self.upload(b"six")
        self.assertContains(answer, "not an image", status_code=400)
        self.assertFalse(self.ada.readings.exists())

    @override_settings(SERVE_BRIDGE={"ADDRESS": "/nowhere/instance.json"})
    def test_an_instance_that_is_gone_is_told_to_the_user(self) -> None:
        """The page shows a sentence, with the status of the error."""
        answer = self.upload((SAMPLES / "6.png").read_bytes())
        self.assertContains(answer, "The reader is not available", status_code=503)

    def test_a_damaged_picture_is_refused(self) -> None:
        """The backend refuses it, because a form reads only the beginning of a file."""
        picture = BytesIO()
        Image.effect_noise((64, 64), 50).save(picture, "JPEG")
        answer = self.upload(picture.getvalue()[:1500])
        self.assertContains(answer, "not a picture that can be read", status_code=400)
        self.assertFalse(self.ada.readings.exists())

    def test_nobody_reads_without_a_login(self) -> None:
        """Django's middleware holds for pages and forwarded routes alike."""
        for path in (reverse("digits:read"), reverse("digits:events", args=[1]), reverse("digits:api")):
            with self.subTest(path):
                self.assertRedirects(Client().get(path), f"{reverse('login')}?next={path}")


class ForwardedTests(ServedTestCase):
    """The routes with answers of backends."""

    def test_the_api_answers_json(self) -> None:
        """The site forwards the result of the backend unchanged."""
        pixels, digit = held_out(1)[0]
        answer = self.client.post(reverse("digits:api"), {"pixels": pixels}, content_type="application/json")
        self.assertEqual(answer.json()["digit"], digit)

    def test_the_api_tells_what_is_wrong_with_a_request(self) -> None:
        """The site forwards the status of the backend."""
        answer = self.client.post(reverse("digits:api"), {}, content_type="application/json")
        self.assertContains(answer, "pixels", status_code=400)

    def test_the_api_needs_the_token(self) -> None:
        """Django's CSRF protection holds for a forwarded route."""
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(self.ada)
        self.assertEqual(strict.post(reverse("digits:api"), {}, content_type="application/json").status_code, 403)

    async def test_the_api_answers_under_asgi(self) -> None:
        """The same view, the same answer."""
        client = AsyncClient()
        await client.aforce_login(self.ada)
        pixels, digit = held_out(1)[0]
        answer = await client.post(reverse("digits:api"), {"pixels": pixels}, content_type="application/json")
        self.assertEqual(answer.json()["digit"], digit)

    def test_guesses_are_streamed(self) -> None:
        """The stream has an event for each row, and a last event."""
        answer = self.client.get(reverse("digits:events", args=[2]))
        events = b"".join(answer.streaming_content).decode().strip().split("\n\n")
        self.assertEqual(answer["Content-Type"], "text/event-stream; charset=utf-8")
        self.assertEqual([event.split(":")[0] for event in events], ["data"] * 8 + ["event"])

    def test_a_picture_that_is_not_there_is_not_found(self) -> None:
        """The backend answers 404."""
        self.assertEqual(self.client.get(reverse("digits:events", args=[500])).status_code, 404)


class Vanishing:
    """A client with an endpoint whose backends were just deleted."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def status(self) -> dict[str, Any]:
        """Return the status without backends."""
        return {**self._client.status(), "backends": {}}


class TrafficTests(ServedTestCase):
    """The staff's page."""

    def setUp(self) -> None:
        """Log the staff in, and begin with the first version."""
        self.client.force_login(self.grace)
        get_client().set_traffic("digits", {V1: 1.0})

    def split(self, v1: str, v2: str) -> Any:
        """Send a split."""
        sent = {"endpoint": "digits", f"digits-{V1}": v1, f"digits-{V2}": v2}
        return self.client.post(reverse("admin:traffic"), sent, follow=True)

    def traffic(self) -> dict[str, float]:
        """Return the split in force."""
        traffic: dict[str, float] = get_client().list_endpoints()["digits"]["traffic"]
        return traffic

    def test_the_page_shows_each_version(self) -> None:
        """Its share, its replicas, and what it has read for the users."""
        self.ada.readings.create(digit=1, confidence=1, version=V1)
        page = self.client.get(reverse("admin:traffic"))
        self.assertContains(page, "2 of 2", count=2)
        self.assertContains(page, "<td>1</td>", html=True, count=1)

    def test_the_split_can_be_set(self) -> None:
        """In percent."""
        self.assertContains(self.split("25", "75"), "the new split is in force")
        self.assertEqual(self.traffic(), {V1: 0.25, V2: 0.75})

    def test_a_split_that_is_not_whole_is_refused(self) -> None:
        """The one in force stays."""
        self.assertContains(self.split("25", "70"), "add up to 95 %, not to 100 %", status_code=400)
        self.assertEqual(self.traffic(), {V1: 1.0})

    def test_the_page_is_for_the_staff(self) -> None:
        """Other users are sent to the login."""
        self.client.force_login(self.ada)
        self.assertEqual(self.split("0", "100").redirect_chain[0][1], 302)
        self.assertEqual(self.traffic(), {V1: 1.0})

    def test_a_backend_that_goes_meanwhile_is_shown_without_replicas(self) -> None:
        """The page and its numbers are of one moment."""
        found = versions(cast(Any, Vanishing(get_client())))
        self.assertEqual([(each.name, each.ready, each.wanted) for each in found["digits"]], [(V1, 0, 0)])

    def test_the_index_leads_to_the_page(self) -> None:
        """As to any other of the admin's."""
        self.assertContains(self.client.get(reverse("admin:index")), reverse("admin:traffic"))


class SplitFormTests(SimpleTestCase):
    """The form alone."""

    def test_weights_add_up_to_one(self) -> None:
        """Rounding on the page changes no sum."""
        form = SplitForm({"a": 0, "b": 0, "c": 0}, {"a": "33.3", "b": "33.3", "c": "33.4"})
        self.assertTrue(form.is_valid())
        self.assertAlmostEqual(sum(form.weights().values()), 1.0)
