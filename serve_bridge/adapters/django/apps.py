"""The application that INSTALLED_APPS names."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from serve_bridge.adapters.django.checks import check_setting


class ServeBridgeConfig(AppConfig):
    """Registers the checks; connects to nothing."""

    name = "serve_bridge.adapters.django"
    label = "serve_bridge"
    verbose_name = "serve_bridge"

    def ready(self) -> None:
        """Register the checks."""
        checks.register(check_setting, "serve_bridge")
