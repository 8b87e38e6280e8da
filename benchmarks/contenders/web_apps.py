"""Row 4: the web apps, each with a view of its own or with a view that is forwarded to a no-op backend.

Rule 1: only the view differs, and only the app's own framework is imported.
"""

from __future__ import annotations

from typing import Any

from benchmarks import BODY


def flask_plain() -> Any:
    """Return a Flask app with the view."""
    from flask import Flask

    app = Flask("noop")
    app.add_url_rule("/noop", view_func=lambda: BODY, endpoint="noop")
    return app


def flask_bridged() -> Any:
    """Return a Flask app that forwards the view."""
    from flask import Flask

    from serve_bridge.adapters.flask import ServeBridge

    app = Flask("noop")
    app.add_url_rule("/noop", view_func=ServeBridge(app).view("noop"))
    return app


def _django(*, bridged: bool, is_async: bool) -> Any:
    import django
    from django.conf import settings
    from django.http import HttpResponse
    from django.urls import path

    settings.configure(
        SECRET_KEY="benchmark",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["serve_bridge.adapters.django"] if bridged else [],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
    )
    django.setup()
    view: Any
    if bridged:
        from serve_bridge.adapters.django import abridge_view, bridge_view

        view = (abridge_view if is_async else bridge_view)("noop")
    elif is_async:

        async def view(request: object) -> HttpResponse:
            return HttpResponse(BODY)
    else:

        def view(request: object) -> HttpResponse:
            return HttpResponse(BODY)

    urlpatterns.append(path("noop", view))
    if is_async:
        from django.core.asgi import get_asgi_application

        return get_asgi_application()
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


urlpatterns: list[Any] = []


def django_plain() -> Any:
    """Return a Django WSGI application with the view."""
    return _django(bridged=False, is_async=False)


def django_bridged() -> Any:
    """Return a Django WSGI application that forwards the view."""
    return _django(bridged=True, is_async=False)


def async_django_plain() -> Any:
    """Return a Django ASGI application with the view."""
    return _django(bridged=False, is_async=True)


def async_django_bridged() -> Any:
    """Return a Django ASGI application that forwards the view."""
    return _django(bridged=True, is_async=True)


def starlette_plain() -> Any:
    """Return a Starlette app with the route."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    async def noop(request: object) -> Response:
        return Response(BODY)

    return Starlette(routes=[Route("/noop", noop)])


def starlette_bridged() -> Any:
    """Return a Starlette app that forwards the route."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    from serve_bridge.adapters.starlette.extension import ServeBridge

    return Starlette(routes=[Route("/noop", ServeBridge().forward("noop"))])
