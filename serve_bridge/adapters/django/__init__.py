"""Django: forwarded routes, and handles for the views of the project.

    INSTALLED_APPS = [..., "serve_bridge.adapters.django"]
    SERVE_BRIDGE = {"ADDRESS": "...", "ROUTES": {"ml/<int:id>/": "classify"}}
    urlpatterns = [path("classify/", bridge_view("classify")), path("", include("serve_bridge.adapters.django.urls"))]

Rule 1: the project's middleware, CSRF protection, login and host checks apply to forwarded routes.
Rule 2: nothing connects before the first request. `ready()` only registers checks.
"""

from serve_bridge.adapters.django.current_bridge import get_client, get_handle
from serve_bridge.adapters.django.signals import forward_failed, forwarded
from serve_bridge.adapters.django.views import abridge_view, bridge_view

__all__ = ["abridge_view", "bridge_view", "forward_failed", "forwarded", "get_client", "get_handle"]
