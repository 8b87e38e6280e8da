"""The declarations in the `backends.py` of each installed application, found as Django finds `admin.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import module_has_submodule

from serve_bridge.adapters.django.surroundings import of_this_project
from serve_bridge.deployment.collecting import declarations_of, declared_in
from serve_bridge.deployment.declaration import Declaration
from serve_bridge.deployment.endpoint_declaration import EndpointDeclaration
from serve_bridge.user_code.user_modules import import_named

MODULE: Final = "backends"


def project() -> str | None:
    """Return the owner of what this project deploys: the top package of its settings; None without such a module."""
    module = getattr(settings, "SETTINGS_MODULE", None)
    return module.partition(".")[0] if isinstance(module, str) and module else None


def declared() -> list[Declaration | EndpointDeclaration]:
    """Return all declarations. A backend without surroundings gets the surroundings of this project.

    Raises:
        ConfigError: Two declarations have the same name, or contradict each other.
        ImportError: A `backends.py` cannot be imported; the message names the file and the line.
    """
    surroundings = of_this_project()
    # Modules of the same name may have another purpose, such as authentication backends.
    modules = [module for module in _modules() if declarations_of(module)]
    return [
        replace(each, surroundings=surroundings)
        if isinstance(each, Declaration) and each.surroundings is None
        else each
        for each in declared_in(*modules)
    ]


def _modules() -> Iterator[Any]:
    for config in apps.get_app_configs():
        # Django's own modules of this name, as in `django.contrib.auth`, have another purpose.
        own = config.module is None or config.name.partition(".")[0] == "django"
        if not own and module_has_submodule(config.module, MODULE):
            yield import_named(f"{config.name}.{MODULE}")
