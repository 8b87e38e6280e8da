"""The search for an instance over TCP: its controller tells the facts that a file of the instance would hold.

Rule 1: the controller proves itself before anything else is read, and so does this process.
Rule 2: the question is a REQUEST, so callers of every role may ask it. The answer is not a pickle.
"""

from __future__ import annotations

from typing import Final

import msgspec

from serve_bridge.errors import AuthenticationError, NotConnected
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE, SECRET, key_path, read_key_file
from serve_bridge.instance.remote_address import RemoteAddress
from serve_bridge.instance.tls_files import own_tls
from serve_bridge.wire.address import CONTROLLER, SocketAddress
from serve_bridge.wire.blocking_end import BlockingConnection
from serve_bridge.wire.endings import Lost, Rejected
from serve_bridge.wire.frames import Kind
from serve_bridge.wire.handshake import AnotherListener, TlsRefused, UnknownKey, VersionMismatch, any_generation
from serve_bridge.wire.heads import decoder, encode_head
from serve_bridge.wire.keys import OPERATORS
from serve_bridge.wire.tls import context_of

QUESTION: Final = b"@instance"
"""The payload of the question. A subscription to the routing table has the id of a process there, which has no @."""
ANSWER_S: Final = 2.0
"""Upper limit for the answer, in seconds."""


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """The answer of a controller about its instance; see `Instance`."""

    name: str
    generation: str
    runtime: str
    controller: SocketAddress


_decode = decoder(Facts)


def facts_of(instance: Instance) -> bytes:
    """Return the answer of the controller of *instance*."""
    return encode_head(Facts(instance.name, instance.generation, instance.runtime, instance.controller))


def find_remote(address: RemoteAddress) -> Instance:
    """Return the instance at *address*, with the key of SERVE_BRIDGE_KEY_FILE.

    The connection uses TLS if this host has files for it (see `own_tls`).

    Raises:
        NotConnected: No instance of this name answers there, or it refuses the key.
        ConfigError: The key file or the files for TLS cannot be used.
    """
    path = key_path()
    role, key = read_key_file(path)
    tls = own_tls(address.name)
    if tls is not None:
        context_of(tls, listens=False)  # so that a fault in a file is a ConfigError
        key = key.with_tls(tls)
    source = SECRET if role == SECRET else f"{address.name}.{role}.key"
    place = SocketAddress(CONTROLLER, "", (address.host, address.port))
    try:
        connection = BlockingConnection(place, key, any_generation(address.name), key.strongest(*OPERATORS))
    except AnotherListener:
        raise NotConnected(
            f"an instance answers at {address}, but its name is not {address.name!r}; use the NAME of `start`"
        ) from None
    except UnknownKey:
        raise NotConnected(
            f"the instance at {address} does not know the key in {KEY_FILE_VARIABLE}={path}: it was retired, or is of "
            f"another instance; copy {source} again from the host on which the instance was started"
        ) from None
    except TlsRefused as error:
        raise NotConnected(f"no encrypted connection with the instance at {address}: {error}") from None
    except VersionMismatch as error:
        raise NotConnected(f"the instance at {address} cannot be used: {error}") from None
    except AuthenticationError as error:
        raise NotConnected(
            f"no instance proves itself at {address} with the key in {KEY_FILE_VARIABLE}={path}: {error}; correct the "
            f"address, or copy {source} again from the host on which the instance was started"
        ) from None
    except (Lost, OSError) as lost:
        raise NotConnected(
            f"no instance answers at {address}: {lost}; start it there, or correct the address"
        ) from None
    try:
        answer = connection.exchange(Kind.REQUEST, QUESTION, ANSWER_S)
        facts = _decode(answer.head)
    except (Lost, Rejected, OSError) as error:
        raise NotConnected(
            f"the instance at {address} does not tell what it is: {error}; try again, and read its log if this stays"
        ) from None
    finally:
        connection.close()
    controller = msgspec.structs.replace(facts.controller, unix="", tcp=facts.controller.tcp or place.tcp)
    return Instance(
        name=facts.name,
        generation=facts.generation,
        runtime=facts.runtime,
        directory="",
        controller=controller,
        secret=key.text,
        tls=tls,
    )
