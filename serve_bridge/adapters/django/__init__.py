"""Django: views that endpoints answer, and handles for the views of the project.

    INSTALLED_APPS = [..., "serve_bridge.adapters.django"]
    SERVE_BRIDGE = {"ADDRESS": "..."}
    urlpatterns = [path("classify/", bridge_view("classify"))]

Rule 1: everything of the project stays in force: middleware, CSRF, login, host checks.
Rule 2: nothing connects before the first request; `ready()` registers checks only.
"""

from serve_bridge.adapters.django.connection import get_client, get_handle
from serve_bridge.adapters.django.views import abridge_view, bridge_view

__all__ = ["abridge_view", "bridge_view", "get_client", "get_handle"]
