"""What backends of a project run in: Django is set up, and no call leaves a database connection behind.

Rule 1: user code of a replica finds Django as a view does: set up before it is imported, connections kept and closed
        by CONN_MAX_AGE.
Rule 2: with the local runtime the process is the web's own; nothing of its settings is touched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import django
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import ENVIRONMENT_VARIABLE
from django.db import close_old_connections, connections, reset_queries
from django.db.backends.signals import connection_created

from serve_bridge.adapters.django import lent_connections
from serve_bridge.import_path import search_path_of
from serve_bridge.surroundings import SurroundingsSpec

PATH: Final = f"{__name__}:DjangoSurroundings"


def of_this_project() -> SurroundingsSpec:
    """Return the surroundings of the running project, for replicas of its backends."""
    settings = os.environ.get(ENVIRONMENT_VARIABLE)
    modules = [settings] if settings else []
    modules += [config.name for config in apps.get_app_configs()]
    search_path = dict.fromkeys(directory for module in modules for directory in search_path_of(module))
    return SurroundingsSpec(PATH, {"settings": settings}, tuple(search_path))


class DjangoSurroundings:
    """See `serve_bridge.surroundings.Surroundings`; declarations in `backends.py` have them by default.

    Args:
        settings: Import path of the settings; None: those that the process has.
    """

    def __init__(self, settings: str | None = None) -> None:
        self._settings = settings
        self._connected = False

    def setup(self) -> None:
        """Set Django up, unless this process has done it."""
        connection_created.connect(self._note_connection)
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
        _begin()
        try:
            with lent_connections.borrowed():
                yield
        finally:
            close_old_connections()

    @asynccontextmanager
    async def around_async(self) -> AsyncIterator[None]:
        """Do the same in the thread in which the asynchronous ORM has its connections, once it has any."""
        await self._in_orm_thread(_begin)
        try:
            yield
        finally:
            await self._in_orm_thread(close_old_connections)

    async def _in_orm_thread(self, step: Any) -> None:
        if lent_connections.are_involved():
            step = lent_connections.keeping(step)
        elif not self._connected:
            return
        await sync_to_async(step)()

    def _note_connection(self, **_: Any) -> None:
        self._connected = True


def _begin() -> None:
    reset_queries()
    close_old_connections()
