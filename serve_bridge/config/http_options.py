"""The options of the HTTP proxy: where it listens, and its limits. Whether a host exists is found out when it binds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypedDict

from serve_bridge.config.addresses import is_loopback
from serve_bridge.config.checks import (
    anything,
    file_path,
    flag,
    host_patterns,
    middleware_list,
    networks,
    optional,
    password,
    seconds,
    whole_number,
)
from serve_bridge.config.options import (
    MESSAGE_BYTES,
    MOST_BYTES,
    MOST_REQUESTS,
    check_keys,
    check_options,
    option,
    options_of,
)
from serve_bridge.config.signatures import signature_of
from serve_bridge.errors import ConfigError
from serve_bridge.printable import nearest, shown

if TYPE_CHECKING:
    from starlette.middleware import Middleware


MOST_PROXIES: Final = 256
"""Upper limit for the proxies of one node."""


class Location(StrEnum):
    """Where proxies run. A member equals its string."""

    HeadOnly = "HeadOnly"
    """The node of the call of `start`."""
    EveryNode = "EveryNode"
    """Each node, all on the same port."""
    NoServer = "NoServer"
    """No HTTP listener: handles and adapters only."""


Placement = Location | Literal["HeadOnly", "EveryNode", "NoServer"]


def place(name: str, value: Any) -> Location:
    """Accept a `Location`, its string, or None for `NoServer`."""
    if value is None:
        return Location.NoServer
    try:
        return Location(value)
    except ValueError:
        allowed = ", ".join(Location)
        raise ConfigError(f"{name} must be one of {allowed}, got {shown(value)}{nearest(value, Location)}") from None


class HTTPOptionsDict(TypedDict, total=False):
    """The options of `HTTPOptions` as a dict, for type checkers. A test compares the two."""

    host: str | None
    port: int
    location: Placement | None
    proxies_per_node: int
    middlewares: Sequence[Middleware]
    max_request_line_bytes: int
    max_header_bytes: int
    max_headers: int
    max_body_bytes: int
    max_message_bytes: int
    header_timeout_s: float
    min_body_rate: int
    body_timeout_s: float
    min_answer_rate: int
    write_timeout_s: float
    request_timeout_s: float
    keep_alive_timeout_s: float
    ping_interval_s: float
    max_connections: int
    max_connections_per_client: int | None
    max_buffered_bytes: int
    trusted_proxies: Sequence[str]
    allowed_hosts: Sequence[str] | None
    allowed_origins: Sequence[str] | None
    list_routes: bool
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_keyfile_password: str | None
    ssl_ca_certs: str | None
    debug: bool


@dataclass(frozen=True, kw_only=True)
class HTTPOptions:
    """The address and the limits of the HTTP proxy. Times are in seconds, sizes in bytes as received.

    Attributes:
        host: Name or address to listen on. None: no proxy, as `location=None`.
        port: TCP port, 0 to 65,535. 0: a free one.
        location: Which nodes have a proxy, a `Location` once built. None: `NoServer`.
        proxies_per_node: Number of proxies on each of these nodes. They share the port. Each is a process that uses up
            to one core, and has the limits below for itself.
        middlewares: Starlette middlewares around all answers of the proxy; the first is outermost.
        max_request_line_bytes: Upper limit for the request line. A longer one gets 414.
        max_header_bytes: Upper limit for headers and trailers together. Larger ones get 431.
        max_headers: Upper limit for the number of header and trailer fields. More get 431.
        max_body_bytes: Upper limit for a request body. A larger one gets 413.
        max_message_bytes: Upper limit for a WebSocket message, in both directions. A longer one closes the WebSocket
            with 1009.
        header_timeout_s: Time limit from the first byte of a request to the end of its headers.
        min_body_rate: Lowest average rate of a request body, in bytes per second. The proxy disconnects a slower client
            after 5 seconds of grace. 0: no limit.
        body_timeout_s: Time limit for a pause within a body, also after a fast beginning.
        min_answer_rate: Lowest average rate at which a client reads an answer, in bytes per second, as `min_body_rate`.
        write_timeout_s: Time limit for a client that reads nothing of its answer.
        request_timeout_s: Time limit of a whole request. Past it the answer is 504. Callers can only shorten it.
        keep_alive_timeout_s: Time limit of an idle connection.
        ping_interval_s: Time between pings to the client of a WebSocket. Without an answer within the same time, the
            proxy closes the WebSocket with 1011.
        max_connections: Upper limit for open connections. At the limit, the proxy closes the connection with the
            longest wait for a TLS handshake, a request's head or the next request, and accepts a new one. If all
            connections have running requests, the new one waits in the kernel's queue. Above half of the limit, these
            waits get shorter time limits.
        max_connections_per_client: Upper limit for the connections of one client with running requests, WebSockets
            included. One more request gets 503. A client is an IPv4 address or a /64 network of IPv6 addresses. Peers
            in `trusted_proxies` have no limit. None: three quarters of `max_connections`.
        max_buffered_bytes: Upper limit for the memory of bodies, unsent answers and waiting requests of all clients, at
            least 1 MiB. Up to 320 KiB of each request's body count. At three quarters, a request with a body gets 503
            before the proxy reads the body. At nine tenths, idle connections close. At the limit, every request gets
            503.
        trusted_proxies: Addresses and networks of peers whose forwarding headers the proxy trusts.
        allowed_hosts: Host names for requests to the proxy: names, addresses, "*.example.com" for the names
            below a domain, ".example.com" for the domain too, "*" for any. Other hosts get 421. Ports do not count.
            None: on a loopback host the loopback names and addresses, otherwise any.
        allowed_origins: Hosts whose pages may open a WebSocket, in the same form; others get 403. A handshake without
            an Origin is accepted, because it does not come from a browser. None: as `allowed_hosts`.
        list_routes: Answer `/-/routes` with the table of routes; False: with 404.
        ssl_certfile: PEM file with the certificate and its chain. None: plain HTTP.
        ssl_keyfile: PEM file with the private key. None: it is in `ssl_certfile`.
        ssl_keyfile_password: Password of an encrypted key.
        ssl_ca_certs: PEM file with the authorities for client certificates. Each client then needs a certificate. None:
            clients need none.
        debug: Answer an exception of user code with its traceback. Only loopback hosts allow it.

    Raises:
        ConfigError: An option is out of range or of the wrong type; the message names it. It is a ValueError.
    """

    host: str | None = option("127.0.0.1", anything)  # the address is checked as a whole, since
    port: int = option(8000, anything)  # an error about either names both
    location: Placement | None = option(Location.HeadOnly, place)
    proxies_per_node: int = option(1, whole_number(1, MOST_PROXIES))
    middlewares: Sequence[Middleware] = option((), middleware_list)
    max_request_line_bytes: int = option(8 * 1024, whole_number(64, MOST_BYTES))
    max_header_bytes: int = option(64 * 1024, whole_number(64, MOST_BYTES))
    max_headers: int = option(100, whole_number(1, MOST_REQUESTS))
    max_body_bytes: int = option(16 * 1024 * 1024, whole_number(0, MOST_BYTES))
    max_message_bytes: int = option(MESSAGE_BYTES, whole_number(1, MOST_BYTES))
    header_timeout_s: float = option(10.0, seconds())
    min_body_rate: int = option(240, whole_number(0, MOST_BYTES))
    body_timeout_s: float = option(10.0, seconds())
    min_answer_rate: int = option(240, whole_number(0, MOST_BYTES))
    write_timeout_s: float = option(30.0, seconds())
    request_timeout_s: float = option(60.0, seconds())
    keep_alive_timeout_s: float = option(5.0, seconds())
    ping_interval_s: float = option(20.0, seconds())
    max_connections: int = option(10_000, whole_number(1, MOST_REQUESTS))
    max_connections_per_client: int | None = option(None, optional(whole_number(1, MOST_REQUESTS)))
    max_buffered_bytes: int = option(1 << 30, whole_number(1 << 20, MOST_BYTES))
    trusted_proxies: Sequence[str] = option((), networks)
    allowed_hosts: Sequence[str] | None = option(None, optional(host_patterns))
    allowed_origins: Sequence[str] | None = option(None, optional(host_patterns))
    list_routes: bool = option(True, flag)
    ssl_certfile: str | None = option(None, optional(file_path))
    ssl_keyfile: str | None = option(None, optional(file_path))
    ssl_keyfile_password: str | None = option(None, optional(password), secret=True)
    ssl_ca_certs: str | None = option(None, optional(file_path))
    debug: bool = option(False, flag)

    def __new__(cls, **given: object) -> Self:
        """Check the names of the options; the error of `__init__` would suggest none."""
        check_keys(cls, given)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        check_options(self)
        check_listen_address(self.host, self.port)
        if self.host is None:
            object.__setattr__(self, "location", Location.NoServer)
        if self.ssl_certfile is None:
            for name in ("ssl_keyfile", "ssl_keyfile_password", "ssl_ca_certs"):
                if getattr(self, name) is not None:
                    raise ConfigError(f"{name} needs ssl_certfile")
        if self.debug and self.location is not Location.NoServer and not is_loopback(self.host):
            raise ConfigError(
                f"debug=True shows tracebacks to every client, so it needs a loopback host, got {self.host!r}"
            )

    @classmethod
    def of(cls, value: HTTPOptions | HTTPOptionsDict | Mapping[str, Any] | None) -> HTTPOptions:
        """Return *value* as options: itself, built from a mapping, or all defaults for None.

        Raises:
            ConfigError: A key names no option, or an option's value is bad.
            TypeError: *value* is neither.
        """
        if isinstance(value, HTTPOptions):
            return value
        return cls(**options_of(cls, value))


setattr(HTTPOptions, "__signature__", signature_of(HTTPOptions))  # noqa: B010  # `__new__` hides the options


def http_differences(old: HTTPOptions, new: HTTPOptions) -> list[str]:
    """Return where *new* differs from *old*, such as "port is 8000, not 9000"; the value of a secret is not shown."""
    found = []
    for each in fields(HTTPOptions):
        was, wanted = getattr(old, each.name), getattr(new, each.name)
        if was != wanted and shown(was) != shown(wanted):  # pickled middlewares are not equal to others
            told = f" is {shown(was)}, not {shown(wanted)}" if each.repr else " is another"
            found.append(each.name + told)
    return found


def check_listen_address(host: object, port: object) -> None:
    """Check the form of a host and a port; an error names both, since one is rarely looked for alone."""
    address = f"{host if isinstance(host, str) else shown(host):.255}:{shown(port)}"
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigError(f"cannot listen on {address}: port must be an int from 0 to 65535, got {shown(port)}")
    if host is None:
        return
    if not isinstance(host, str) or not re.fullmatch(r"[^\s/?#@\x00-\x1f\x7f]{1,255}", host):
        raise ConfigError(f"cannot listen on {address}: host must be a name or an address, or None for no proxy")
