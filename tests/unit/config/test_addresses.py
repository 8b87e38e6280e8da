"""The addresses of hosts in options."""

from __future__ import annotations

import pytest

from serve_bridge.config.addresses import host_port, is_any, is_loopback, joined, split


@pytest.mark.parametrize(
    ("address", "parts"),
    [("10.0.0.5:7000", ("10.0.0.5", 7000)), ("[fd00::5]:7000", ("fd00::5", 7000)), ("engine:0", ("engine", 0))],
)
def test_an_address_has_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    """An IPv6 address loses its brackets, and gets them again."""
    assert split(host_port("listen", address)) == parts
    assert joined(*parts) == address


@pytest.mark.parametrize(
    ("host", "every", "own"),
    [
        *[(host, True, False) for host in ("*", "0.0.0.0", "::", "0", "0x0", "00.0")],
        *[(host, False, True) for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]")],
        *[(host, False, False) for host in ("10.0.0.5", "fd00::5", "localhost.shop.com", "engine", "127.0.0.1.shop")],
    ],
)
def test_a_host_stands_for_every_address_for_this_machine_or_for_neither(host: str, every: bool, own: bool) -> None:
    """No name server is asked, so a name other than localhost is of another machine."""
    assert (is_any(host), is_loopback(host)) == (every, own)


def test_no_host_is_not_this_machine() -> None:
    """An instance without a proxy has none."""
    assert not is_loopback(None)
