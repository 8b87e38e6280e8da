"""The Django application for INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from serve_bridge.adapters.django import checks as own
from serve_bridge.adapters.django import testcase_connections  # noqa: F401 - its import begins to record connections


class ServeBridgeConfig(AppConfig):
    """Registers the checks, and does not connect."""

    name = "serve_bridge.adapters.django"
    label = "serve_bridge"
    verbose_name = "serve_bridge"

    def ready(self) -> None:
        """Register the checks."""
        for check in (own.check_setting, own.check_patterns, own.check_urls, own.check_process, own.check_served):
            checks.register(check, own.TAG)
        checks.register(own.check_deployment, own.TAG, deploy=True)
