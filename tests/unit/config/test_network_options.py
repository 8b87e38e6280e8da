"""The options of an instance's own network."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from serve_bridge.config.network_options import NetworkOptions, NetworkOptionsDict, network_differences
from serve_bridge.config.tls import Tls
from serve_bridge.errors import ConfigError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"listen": "10.0.0.5"}, "listen must be HOST:PORT, .* got '10.0.0.5'"),
        ({"listen": "10.0.0.5:70000"}, "listen must be HOST:PORT, .* got '10.0.0.5:70000'"),
        ({"listen": "http://10.0.0.5:7000"}, "listen must be HOST:PORT"),
        ({"listen": "fd00::5:7000"}, "listen must be HOST:PORT"),
        ({"listen": 7000}, "listen must be HOST:PORT, .* got 7000"),
        ({"listen": "0.0.0.0:7000"}, "advertise='HOST:7000'"),
        ({"listen": "[::]:7000"}, "advertise='HOST:7000'"),
        ({"listen": "*:7000"}, "advertise='HOST:7000'"),
        ({"listen": "0:7000"}, "advertise='HOST:7000'"),
        ({"listen": "0.0.0.0:7000", "advertise": "[::]:7001"}, r"advertise='\[::\]:7001' is every .*='HOST:7001'"),
        ({"listen": "a:1", "advertise": "0.0.0.0:7001"}, "advertise='0.0.0.0:7001' is every .*='HOST:7001'"),
        ({"listen": "a..b:7000"}, "listen must be HOST:PORT, .* got 'a..b:7000'"),
        ({"listen": "a" * 64 + ":7000"}, "listen must be HOST:PORT"),
        ({"listen": "a:1", "advertise": "b"}, "advertise must be HOST:PORT, .* got 'b'"),
        ({"listen": "a:1", "data_ports": "7001"}, "data_ports must be a range of ports, .* got '7001'"),
        ({"listen": "a:1", "data_ports": "7050-7001"}, "data_ports must be a range of ports"),
        ({"listen": "a:1", "data_ports": "0-5"}, "data_ports must be a range of ports"),
        ({"listen": "a:7003", "data_ports": "7001-7050"}, "listen='a:7003' is inside data_ports='7001-7050'"),
        ({"data_ports": "7001-7050"}, "data_ports needs listen"),
        ({"advertise": "a:7000"}, "advertise needs listen"),
        ({"key_file": ""}, "key_file must be the path of a file"),
        ({"tls_cert": ""}, "tls_cert must be the path of a file"),
        ({"tls_cert": "/c"}, "TLS needs tls_cert, tls_key and tls_ca; give tls_key and tls_ca too"),
    ],
)
def test_a_bad_value_is_named(options: dict[str, Any], message: str) -> None:
    """The error says which value, and what to use."""
    with pytest.raises(ConfigError, match=message):
        NetworkOptions(**options)


def test_processes_on_the_host_of_listen_are_reached_under_the_advertised_host() -> None:
    """Processes on other hosts are reached at their own address."""
    options = NetworkOptions(listen="0.0.0.0:7000", advertise="engine.example.com:7443")
    assert (options.advertised("0.0.0.0"), options.advertised_port) == ("engine.example.com", 7443)
    assert options.advertised("10.0.0.6") == "10.0.0.6"


def test_a_range_of_ports_has_both_ends() -> None:
    """Without a range any free port is used."""
    assert list(NetworkOptions(listen="a:1", data_ports="7001-7003").ports) == [7001, 7002, 7003]
    assert list(NetworkOptions(listen="a:1").ports) == [0]


def test_other_options_are_told_by_name() -> None:
    """A second start shows the old and the new value."""
    old, new = NetworkOptions(listen="a:1"), NetworkOptions(listen="a:2")
    assert network_differences(old, new) == ["listen is 'a:1', not 'a:2'"]


def test_the_dict_has_the_options_of_the_class() -> None:
    """With the same types, so that a type checker takes one for the other."""
    declared = {name: each.__forward_arg__ for name, each in NetworkOptionsDict.__annotations__.items()}
    assert declared == {each.name: each.type for each in fields(NetworkOptions)}


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("tls_", ["tls_cert", "tls_key", "tls_ca"]),
        ("SERVE_BRIDGE_TLS_", ["SERVE_BRIDGE_TLS_CERT", "SERVE_BRIDGE_TLS_KEY", "SERVE_BRIDGE_TLS_CA"]),
    ],
)
def test_an_error_names_a_file_for_tls_as_the_user_does(prefix: str, names: list[str]) -> None:
    """An option of `start` and a variable of the environment look different."""
    tls = Tls("/c", "/k", "/a", "shop", prefix)
    assert [tls.named(file) for file in ("cert", "key", "ca")] == names
