"""A list of forwarded addresses is believed as far as those can be trusted who wrote it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_bridge.http_server.trusted_peers import TrustedPeers

PEERS = TrustedPeers(["10.0.0.0/8", "192.168.1.1/16", "::1"])


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("8.8.8.8", ("8.8.8.8", 0)),
        ("9.9.9.9, 8.8.8.8", ("8.8.8.8", 0)),
        ("9.9.9.9,8.8.8.8 ,10.0.0.2, 192.168.7.7", ("8.8.8.8", 0)),
        ("garbage, 8.8.8.8, 10.0.0.2", ("8.8.8.8", 0)),
        ("8.8.8.8:90", ("8.8.8.8", 90)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("fe80::1%eth0", ("fe80::1%eth0", 0)),
        ("10.0.0.3, 10.0.0.2", ("10.0.0.3", 0)),
        ("9.9.9.9, " * 1_000 + "8.8.8.8", ("8.8.8.8", 0)),
        ("8.8.8.8,, ", ("8.8.8.8", 0)),
        ("", None),
        (" , ,", None),
    ],
    ids=str,
)
def test_the_origin_is_the_last_stranger(given: str, origin: tuple[str, int] | None) -> None:
    """D06: whoever he claims to have come from does not count."""
    assert PEERS.origin(given) == origin


@pytest.mark.parametrize(
    "given", ["unknown", "8.8.8.8, unknown, 10.0.0.2", "<script>", '"\\"', "\xe4", "8.8.8", "1:2", "[::1", "8.8.8.8:x"]
)
def test_what_ends_in_no_address_says_nothing(given: str) -> None:
    """D06: a trusted peer would have written one."""
    with pytest.raises(ValueError, match="address"):
        PEERS.origin(given)


def test_a_network_is_meant_by_any_of_its_addresses() -> None:
    """As the options allow it."""
    assert "192.168.200.1" in PEERS
    assert "::1" in PEERS
    assert "8.8.8.8" not in PEERS


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(given: str) -> None:
    """Nothing else comes of what others send."""
    try:
        found = PEERS.origin(given)
    except ValueError:
        return
    assert found is None or ":" in found[0] or "." in found[0]
