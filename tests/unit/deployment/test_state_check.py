"""A state with a fault is refused before its first change, with the name of the backend or the endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serve_bridge.deployment.state_check import check_state
from serve_bridge.errors import ConfigError
from serve_bridge.state.document import decode

GOLDEN = Path(__file__).parents[2] / "golden" / "state-1.bin"
Edit = Callable[[dict[str, Any], dict[str, Any]], object]

FAULTS: dict[str, tuple[Edit, str]] = {
    "option": (lambda b, e: b["b"]["options"].update(num_replica=2), "backend 'b': .*no option 'num_replica'"),
    "value": (lambda b, e: b["b"]["options"].update(num_replicas=-1), "backend 'b': num_replicas must be an int"),
    "room": (lambda b, e: b["b"]["options"].update(max_surge=0), "backend 'b': .*leave no room"),
    "actor options": (
        lambda b, e: b["b"].update(ray_actor_options={"value": {"num_cpu": 1}}),
        "backend 'b': ray_actor_options has no option 'num_cpu'",
    ),
    "code": (lambda b, e: b["b"].update(code="../../etc/passwd"), "backend 'b': .*named by a SHA-256"),
    "backend name": (lambda b, e: b.update({"a/b": b["b"]}), "backend 'a/b': backend name must be"),
    "endpoint name": (lambda b, e: e.update({"": e["e"]}), "endpoint '': endpoint name must be"),
    "route": (lambda b, e: e["e"].update(route="none"), "endpoint 'e': a route must start with '/'"),
    "same route": (lambda b, e: e.update(f=e["e"]), "endpoint 'f': its route is that of endpoint 'e' too"),
    "method": (lambda b, e: e["e"].update(methods=["FETCH IT"]), "endpoint 'e': an HTTP method must be"),
    "case": (lambda b, e: e["e"].update(methods=["get"]), r"endpoint 'e': its methods must be \['GET'\]"),
    "time": (lambda b, e: e["e"].update(timeout_s=-1.0), "endpoint 'e': timeout_s must be a number"),
    "unknown backend": (lambda b, e: e["e"].update(traffic={"x": 1.0}), "endpoint 'e': .*backend 'x', which is not"),
    "unknown shadow": (lambda b, e: e["e"].update(shadows={"x": 1.0}), "endpoint 'e': .*backend 'x', which is not"),
    "sum": (lambda b, e: e["e"].update(traffic={"b": 0.2}), "endpoint 'e': the weights .* sum to 0.2"),
    "no traffic": (lambda b, e: e["e"].update(traffic={}), "endpoint 'e': traffic must name at least one backend"),
    "share": (lambda b, e: e["e"].update(shadows={"b": 7.0}), "endpoint 'e': the share of shadow 'b'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str) -> None:
    """The same checks as for arguments from Python find it."""
    edit, message = FAULTS[fault]
    document = json.loads(GOLDEN.read_bytes())
    edit(document["backends"], document["endpoints"])
    del document["checksum"]
    record, _ = decode(json.dumps(document).encode() + b"\n")
    with pytest.raises(ConfigError, match=message):
        check_state(record)


def test_a_state_without_a_fault_is_accepted() -> None:
    """An instance wrote it."""
    check_state(decode(GOLDEN.read_bytes())[0])
