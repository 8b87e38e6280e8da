"""The contract of fronts. A front answers HTTP for endpoints: the proxy is one, and the app of every adapter.

Rule 1: every test uses a real HTTP client, a real socket and a real replica. There are no mocks and no sleeps.
Rule 2: a test applies to every front, unless it is marked with an ability that it needs. A front names the abilities
        it lacks in `lacks`, with the reason. Tests that need them are not collected.
"""

from __future__ import annotations

from serve_bridge.testing.fronts.answers import AnswerContract
from serve_bridge.testing.fronts.bodies import BodyContract
from serve_bridge.testing.fronts.failures import FailureContract
from serve_bridge.testing.fronts.request_ids import RequestIdContract
from serve_bridge.testing.fronts.requests import RequestContract
from serve_bridge.testing.fronts.streams import StreamContract
from serve_bridge.testing.fronts.websockets import WebSocketContract


class FrontContract(
    RequestContract, BodyContract, AnswerContract, StreamContract, RequestIdContract, FailureContract, WebSocketContract
):
    """Tests for every front: the proxy, and the apps of the adapters."""
