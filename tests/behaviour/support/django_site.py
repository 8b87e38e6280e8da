"""A Django site, WSGI and ASGI, as a project's `wsgi.py` and `asgi.py` have it."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.http import HttpRequest, JsonResponse
from django.urls import include, path, reverse
from django.views.decorators.csrf import csrf_exempt

if not settings.configured:  # a process of its own; in a test's there are settings already
    settings.configure(SECRET_KEY="tests", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)
    django.setup()


def index(request: HttpRequest) -> JsonResponse:
    """Say where the page is."""
    link = reverse("admin:change", args=[7])
    return JsonResponse({"path": request.path, "info": request.path_info, "link": link, "q": request.GET.get("q")})


@csrf_exempt
def change(request: HttpRequest, number: int) -> JsonResponse:
    """Say what came."""
    return JsonResponse({"number": number, "form": request.POST.dict(), "method": request.method})


def login(request: HttpRequest) -> JsonResponse:
    """Set two cookies, as Django's login does, and read them again."""
    response = JsonResponse(request.COOKIES)
    response.set_cookie("sessionid", "s", httponly=True)
    response.set_cookie("csrftoken", "c")
    return response


_admin = [path("", index, name="index"), path("<int:number>/change/", change, name="change")]
urlpatterns = [path("admin/", include((_admin, "admin"))), path("login/", login)]


class _Site(WSGIHandler):
    class request_class(WSGIRequest):
        urlconf = __name__


class _AsyncSite(ASGIHandler):
    class request_class(ASGIRequest):
        urlconf = __name__


application: Any = _Site()
asgi_application: Any = _AsyncSite()
