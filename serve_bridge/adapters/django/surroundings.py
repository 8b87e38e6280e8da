"""Surroundings of a project's backends: they set up Django, and close the database connections of calls.

Rule 1: user code of a replica can use Django as a view can. Django is set up before user code is imported. Connections
        of `def` code are closed after CONN_MAX_AGE. Those of an `async def` call end with the call, as under ASGI.
Rule 2: with the local runtime, replicas run in the web process, and its settings stay unchanged.
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
    """Return the surroundings for backends of the running project."""
    settings = os.environ.get(ENVIRONMENT_VARIABLE)
    modules = [settings] if settings else []
    modules += [config.name for config in apps.get_app_configs()]
    search_path = dict.fromkeys(directory for module in modules for directory in search_path_of(module))
    return SurroundingsSpec(PATH, {"settings": settings}, tuple(search_path))


class DjangoSurroundings:
    """The default surroundings of declarations in `backends.py`; see `serve_bridge.user_code.surroundings`.

    Args:
        settings: Import path of the settings; None: the settings of the process.
    """

    def __init__(self, settings: str | None = None) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Set up Django, unless this process has done so."""
        if apps.ready:
            return
        if self._settings is not None:
            os.environ.setdefault(ENVIRONMENT_VARIABLE, self._settings)
        django.setup()
        for alias in connections:
            # A replica may be idle for hours. Database servers and firewalls close idle connections, so Django must
            # check a connection before it uses it.
            connections.settings[alias]["CONN_HEALTH_CHECKS"] = True

    @contextmanager
    def around(self) -> Iterator[None]:
        """Do the same as Django around a request, for one call of `def` code."""
        reset_queries()
        close_old_connections()
        try:
            with testcase_connections.borrowed():
                yield
        finally:
            close_old_connections()

    @asynccontextmanager
    async def around_async(self) -> AsyncIterator[None]:
        """Give a call a thread for its synchronous code, and close the connections of the thread after the call."""
        thread = CallThread()
        thread.enter()
        try:
            yield
        finally:
            await thread.end()
