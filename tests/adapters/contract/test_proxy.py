"""The contract of fronts, over the proxy, on both runtimes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import serve_bridge as serve
from serve_bridge.testing import FrontContract


class TestProxy(FrontContract):
    """The standalone proxy, whose routes have no options."""

    @classmethod
    @contextmanager
    def front(cls, client: serve.Client) -> Iterator[str]:
        """Yield the base URL of the instance's own."""
        yield client.http_urls[0]
