"""URLs that lead to the endpoints."""

from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from serve_bridge.adapters.django import abridge_view, bridge_view
from tests.adapters.support.endpoints import BACKENDS

NAMES = [backend.__name__.lower() for backend in BACKENDS if backend.__name__ != "echo"]

urlpatterns = [
    *(path(name, csrf_exempt(bridge_view(name))) for name in NAMES),
    path("echo/<int:count>/<path:rest>", csrf_exempt(bridge_view("echo"))),
    path("missing", bridge_view("missing")),
    path("add", csrf_exempt(bridge_view("counter", method_name="add"))),
    path("protected", bridge_view("form")),
    path("async/chunks", abridge_view("chunks")),
    path("async/missing", abridge_view("missing")),
]
