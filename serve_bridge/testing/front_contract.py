"""The contract of fronts: what holds for everything that answers HTTP for endpoints, the proxy and every adapter.

Rule 1: everything goes over a real socket, by a real HTTP client, to a real replica; nothing is a mock, nothing sleeps.
Rule 2: a test holds for every front, or it needs something: what a front cannot do is said, with the reason, in
        `lacks`, and tests that need it are not collected.
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
    """What holds for everything that answers HTTP for endpoints: the adapters, and the proxy."""
