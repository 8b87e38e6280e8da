"""What backends of a project run in: Django is set up, and no call leaves a database connection behind.

Rule 1: user code of a replica finds Django as a view does. Django is set up before the code is imported. Connections of
        `def` code are kept and closed by CONN_MAX_AGE; those of an `async def` call end with the call, as under ASGI.
Rule 2: with the local runtime the process is the web's own; nothing of its settings is touched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import django
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE
from django.db import close_old_connections, connections, reset_queries

from serve_bridge.adapters.django import testcase_connections
from serve_bridge.adapters.django.call_thread import CallThread
from serve_bridge.user_code.search_path import search_path_of
from serve_bridge.user_code.surroundings import SurroundingsSpec

PATH: Final = f"{__name__}:DjangoSurroundings"


def of_this_project() -> SurroundingsSpec:
    """Return the surroundings of the running project, for replicas of its backends."""
    settings = os.environ.get(ENVIRONMENT_VARIABLE)
    modules = [settings] if settings else []
    modules += [config.name for config in apps.get_app_configs()]
    search_path = dict.fromkeys(directory for module in modules for directory in search_path_of(module))
    return SurroundingsSpec(PATH, {"settings": settings}, tuple(search_path))


class DjangoSurroundings:
    """See `serve_bridge.user_code.surroundings.Surroundings`; declarations in `backends.py` have them by default.

    Args:
        settings: Import path of the settings; None: those that the process has.
    """

    def __init__(self, settings: str | None = None) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Set Django up, unless this process has done it."""
        if apps.ready:
            return
        if self._settings is not None:
            os.environ.setdefault(ENVIRONMENT_VARIABLE, self._settings)
        django.setup()
        for alias in connections:
            # A replica may idle for hours, in which servers and firewalls cut connections: they are tried first.
            connections.settings[alias]["CONN_HEALTH_CHECKS"] = True

    @contextmanager
    def around(self) -> Iterator[None]:
        """Do what Django does around a request."""
        reset_queries()
        close_old_connections()
        try:
            with testcase_connections.borrowed():
                yield
        finally:
            close_old_connections()

    @asynccontextmanager
    async def around_async(self) -> AsyncIterator[None]:
        """Give the call a thread of its own for its synchronous code, and close the connections of that thread."""
        thread = CallThread()
        thread.enter()
        try:
            yield
        finally:
            await thread.end()
