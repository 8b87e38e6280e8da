"""The backends behind each endpoint, for the staff's page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Count

from examples.django_app.digits.models import Reading
from serve_bridge import Client


@dataclass(frozen=True, kw_only=True)
class Version:
    """One backend behind an endpoint.

    Attributes:
        name: Name of the backend.
        percent: Percentage of the endpoint's requests.
        ready: Number of ready replicas.
        wanted: Number of replicas in the configuration.
        readings: Number of readings for users of this site so far.
    """

    name: str
    percent: float
    ready: int
    wanted: int
    readings: int


def versions(client: Client) -> dict[str, list[Version]]:
    """Return the present and possible backends of each endpoint of the instance.

    A backend `digits:v2` is a version of the endpoint `digits`, even while it gets no traffic yet.
    """
    status = client.status()  # one call for both, because a backend may be deleted between two calls
    found, running = status["endpoints"], status["backends"]
    readings = Counter(dict(Reading.objects.order_by().values_list("version").annotate(Count("pk"))))
    return {
        name: _versions({**_idle(name, running), **endpoint["traffic"]}, running, readings)
        for name, endpoint in sorted(found.items())
    }


def _idle(endpoint: str, running: Iterable[str]) -> dict[str, float]:
    return {name: 0.0 for name in running if name.startswith(f"{endpoint}:")}


def _versions(traffic: Mapping[str, float], running: Mapping[str, Any], readings: Counter[str]) -> list[Version]:
    return [
        Version(
            name=name,
            percent=weight * 100,
            ready=sum(state == "ready" for state in running[name]["replicas"].values()) if name in running else 0,
            wanted=running[name]["wanted"] if name in running else 0,
            readings=readings[name],
        )
        for name, weight in sorted(traffic.items())
    ]
