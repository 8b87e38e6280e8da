"""The reports of the verbs: the data for programs, and the same as a text with tables for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from serve_bridge.http.methods import ANY_METHOD
from serve_bridge.printable import printable, printable_json


@dataclass(frozen=True)
class Report:
    """The result of a verb.

    Attributes:
        data: JSON values, for programs.
        text: Lines for people, without a line feed at the end.
    """

    data: Any
    text: str

    def formatted(self, form: str) -> str:
        """Return the printable form: JSON if *form* is "json", otherwise the text. Control characters are removed."""
        if form == "json":
            return printable_json(json.dumps(self.data, indent=2))
        return printable(self.text, lines=True)


def status_text(found: Mapping[str, Any]) -> str:
    """Return the status of an instance as text: what the user must look at first, then tables."""
    backends = [
        (
            name,
            f"{_counted(backend['replicas'].values())} of {backend['wanted']}",
            *_deployed(backend),
            backend["failure"] or "",
        )
        for name, backend in found["backends"].items()
    ]
    text = [f"instance {found['name']}  {'  '.join(found['http_urls']) or 'no proxy'}", ""]
    refused = [line for proxy in found["proxies"].values() if (line := _refused(proxy))]
    unfinished = [_unfinished(each) for each in found["deployments"]]
    updates = [_update(name, each["update"]) for name, each in found["backends"].items() if each["update"]]
    text += [line for lines in (refused, unfinished, updates) if lines for line in (*lines, "")]
    nodes = [(node["address"], node["proxy"] or "none", node["failure"] or "") for node in found["nodes"].values()]
    if len(nodes) > 1 or any(failure for *_, failure in nodes):
        text += [_table(("node", "proxy", "failure"), nodes), ""]
    head = ("backend", "replicas", "project", "version", "deployed", "failure")
    text += [_table(head, backends), "", traffic_table(found["endpoints"])]
    return "\n".join(text)


def traffic_table(endpoints: Mapping[str, Any]) -> str:
    """Return a table of endpoints: their routes, HTTP methods, traffic and shadows."""
    rows = [
        (
            name,
            each["route"] or "",
            "every" if shown_methods(each) == list(ANY_METHOD) else " ".join(each["methods"]),
            _shares(each["traffic"]),
            _shares(each["shadows"]),
        )
        for name, each in endpoints.items()
    ]
    return _table(("endpoint", "route", "methods", "traffic", "shadows"), rows)


def shown_methods(endpoint: Mapping[str, Any]) -> list[str]:
    """Return the HTTP methods of *endpoint*; "*" without a route, since handles and adapters may send any method."""
    return list(ANY_METHOD) if endpoint["route"] is None else list(endpoint["methods"])


def _refused(proxy: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} with {status}" for status, count in (proxy["refused"] or {}).items())
    return f"{proxy['url']} refused requests since its start: {counts}" if counts else ""


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.3g} {backend}" for backend, share in shares.items())


def _unfinished(deployment: Mapping[str, Any]) -> str:
    """Return a line about an incomplete deployment."""
    how = "runs" if deployment["running"] else "was interrupted" if deployment["failure"] is None else "failed"
    begun, left = (", ".join(deployment[part]) or "nothing" for part in ("begun", "left"))
    why = f". {deployment['failure']}" if deployment["failure"] is not None else ""
    since = _time(deployment["begun_at"])
    return f"deployment of project {deployment['project']} of {since} {how} at: {begun}; not begun: {left}{why}"


def _update(backend: str, update: Mapping[str, Any]) -> str:
    """Return a line about the update of *backend*."""
    code = "new code" if update["version"] is None else f"version {update['version']}"
    why = "" if update["failure"] is None else f". {update['failure']}"
    if update["state"] == "undone":
        return f"update of backend {backend} to {code} was undone, and all replicas have the old code{why}"
    counts = f"{update['new']} of {update['wanted']} replicas have it, and {update['old']} have the old code"
    return f"update of backend {backend} to {code} {update['state']}: {counts}{why}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _deployed(backend: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return the project of a backend, its version, and the time of its deployment."""
    if backend["owner"] is None:
        return "by hand", "", ""
    version = backend["version"] or backend["fingerprint"][:8] or "by hand"
    return backend["owner"], version, _time(backend["deployed_at"])


def _counted(states: Iterable[str]) -> str:
    counts = Counter(states)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return *rows* under *head*, each column as wide as its widest cell."""
    if not rows:
        return f"no {head[0]}s"
    rows = [[printable(cell) for cell in row] for row in rows]  # a cell is one line
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return "\n".join(line.rstrip() for line in lines)
