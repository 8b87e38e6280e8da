"""No URLs but the forwarded ones, and views that call a backend."""

from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from serve_bridge.adapters.django import abridge_view, bridge_view, get_handle

BACKENDS = ("count", "acount", "nested", "anested", "looped", "streamed", "astreamed", "meeting")


@login_not_required
def called(request: HttpRequest, backend: str) -> HttpResponse:
    """Call an endpoint like a function."""
    return HttpResponse(str(get_handle(backend).call()))


@login_not_required
@transaction.non_atomic_requests
async def acalled(request: HttpRequest, backend: str) -> HttpResponse:
    """Call an endpoint like a function, without holding a thread."""
    return HttpResponse(str(await get_handle(backend).acall()))


urlpatterns = [
    path("called/<str:backend>/", called),
    path("acalled/<str:backend>/", acalled),
    *(path(f"forwarded/{name}/", login_not_required(bridge_view(name))) for name in BACKENDS),
    *(path(f"aforwarded/{name}/", login_not_required(abridge_view(name))) for name in BACKENDS),
]
