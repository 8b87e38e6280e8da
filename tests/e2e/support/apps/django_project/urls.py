"""One forwarded route as a sync view, one as an async view, and one that the project answers itself."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from serve_bridge.adapters.django import abridge_view, bridge_view
from tests.e2e.support.apps.facts import facts


def own_facts(request: HttpRequest) -> JsonResponse:
    """Answer without the instance."""
    return JsonResponse(facts())


urlpatterns = [
    path("echo/<int:number>", csrf_exempt(bridge_view("echo"))),
    path("async/echo/<int:number>", csrf_exempt(abridge_view("echo"))),
    path("transfer", csrf_exempt(bridge_view("transfer"))),
    path("async/transfer", csrf_exempt(abridge_view("transfer"))),
    path("facts", own_facts),
]
