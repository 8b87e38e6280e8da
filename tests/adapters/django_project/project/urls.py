"""No URLs but the forwarded ones."""

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.urls import path

from serve_bridge.adapters.django import abridge_view, get_handle


@login_not_required
def called(request: HttpRequest) -> HttpResponse:
    """Call an endpoint like a function."""
    return HttpResponse(str(get_handle("count").call()))


urlpatterns = [path("called/", called), path("awaited/", login_not_required(abridge_view("count")))]
