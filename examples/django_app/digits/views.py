"""The pages of the site's users."""

# mypy: allow-untyped-decorators

from __future__ import annotations

import base64
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from examples.django_app.digits.forms import UploadForm
from examples.django_app.digits.models import Reading
from examples.pictures import Unreadable
from serve_bridge import ServeBridgeError
from serve_bridge.adapters.django import get_handle

SHOWN = 5
DIGITS = range(10)


@require_http_methods(["GET", "POST"])
def read(request: HttpRequest) -> HttpResponse:
    """Show the form. For an upload, call the endpoint as a function, and show the answer."""
    form = UploadForm(request.POST, request.FILES) if request.method == "POST" else UploadForm()
    shown = {"form": form, "digits": DIGITS, "readings": request.user.readings.all()[:SHOWN]}
    if not form.is_valid():
        return render(request, "digits/read.html", shown, status=400 if form.is_bound else 200)
    image = form.cleaned_data["image"]
    try:
        reading = read_for(request.user, image)
    except Unreadable as error:  # an exception of the backend keeps its type
        form.add_error("image", str(error))
        return render(request, "digits/read.html", shown, status=400)
    except ServeBridgeError as error:  # an error of the engine: no instance, no free replica, or a timeout
        form.add_error(None, "The reader is not available. Try again in a moment.")
        return render(request, "digits/read.html", shown, status=error.http_status)
    return render(request, "digits/read.html", {**shown, "reading": reading, "picture": data_uri(image)})


def read_for(user: Any, image: UploadedFile) -> Reading:
    """Send *image* to the backend, and save the reading.

    Raises:
        Unreadable: The backend cannot read the image.
        ServeBridgeError: The call failed without an answer of a backend.
    """
    # `read` is a `def` method. The shard key keeps each user at one version while the traffic is split. The setting
    # TIMEOUT_S limits the time of the call.
    handle = get_handle("digits").options(method_name="read", shard_key=str(user.pk))
    image.seek(0)
    answer = handle.call({"image": image.read()})
    reading = Reading(user=user, digit=answer["digit"], confidence=answer["confidence"], version=answer["backend"])
    reading.save()
    return reading


def data_uri(image: UploadedFile) -> str:
    """Return an uploaded picture as a data URI for the page."""
    image.seek(0)
    return f"data:{image.content_type};base64,{base64.b64encode(image.read()).decode()}"


@require_safe
def watch(request: HttpRequest, number: int) -> HttpResponse:
    """Show the page of the guesses."""
    return render(request, "digits/watch.html", {"number": number, "digits": DIGITS})
