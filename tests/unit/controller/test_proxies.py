"""What is said of the proxies of an instance."""

from __future__ import annotations

import pytest

from serve_bridge.controller.proxies import reachable_url


@pytest.mark.parametrize(
    ("url", "address", "expected"),
    [
        ("http://0.0.0.0:8000", "192.0.2.7", "http://192.0.2.7:8000"),
        ("https://[::]:443", "192.0.2.7", "https://192.0.2.7:443"),
        ("http://[::]:8000", "2001:db8::1", "http://[2001:db8::1]:8000"),
        ("http://127.0.0.1:8000", "192.0.2.7", "http://127.0.0.1:8000"),
        ("http://192.0.2.9:8000", "192.0.2.7", "http://192.0.2.9:8000"),
        ("http://0.0.0.0:8000", None, "http://0.0.0.0:8000"),
    ],
)
def test_a_proxy_on_all_addresses_is_shown_at_its_nodes(url: str, address: str | None, expected: str) -> None:
    """A client cannot use 0.0.0.0; any other host stays as it was asked for."""
    assert reachable_url(url, address) == expected
