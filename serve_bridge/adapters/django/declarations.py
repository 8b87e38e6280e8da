"""What the installed applications declare in their `backends.py`, found as Django finds `admin.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from serve_bridge.adapters.django.surroundings import of_this_project
from serve_bridge.declaration import Declaration, declared_in
from serve_bridge.import_path import import_named

MODULE: Final = "backends"


def declared() -> list[Declaration]:
    """Return all that is declared; what names no surroundings runs in those of this project.

    Raises:
        ConfigError: Two declarations have one name, or contradict each other.
        ImportError: A `backends.py` cannot be imported; the message says in which file and line.
    """
    surroundings = of_this_project()
    return [
        each if each.surroundings is not None else replace(each, surroundings=surroundings)
        for each in declared_in(*_modules())
    ]


def _modules() -> Iterator[Any]:
    for config in apps.get_app_configs():
        # Django's own, as that of `django.contrib.auth`, are about something else.
        own = config.module is None or config.name.partition(".")[0] == "django"
        if not own and module_has_submodule(config.module, MODULE):
            yield import_named(f"{config.name}.{MODULE}")
