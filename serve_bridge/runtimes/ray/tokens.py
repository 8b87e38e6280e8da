"""Whether a Ray cluster accepts the token of this process.

If a cluster refuses the token, Ray retries for 20 seconds and then reports a lost connection. So the token is tried
first, and the errors of Ray are searched for a refusal.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Final

import ray
from ray.exceptions import AuthenticationError as RayAuthenticationError

from serve_bridge.errors import AuthenticationError

CONNECT_S: Final = 5.0
"""Upper limit for a connection to the cluster, in seconds."""

_REFUSED: Final = "InvalidAuthToken"


@contextlib.contextmanager
def told_refusals(address: str) -> Iterator[None]:
    """Try the token at *address*, and turn every kind of refusal into one error.

    Raises:
        AuthenticationError: The cluster refuses the token of this process, or the process lacks a token.
    """
    try:
        _try_token(address)
        yield
    except RayAuthenticationError as error:
        raise AuthenticationError(_refusal(address)) from error
    except ConnectionError as error:
        if _names_refusal(error):
            raise AuthenticationError(_refusal(address)) from error
        raise


def _try_token(address: str) -> None:
    """Raise Ray's AuthenticationError if the cluster at *address* refuses the token. Otherwise return."""
    try:
        # Private parts of Ray. If another version lacks them, `ray.init` finds a refusal later.
        from ray._private.authentication import authentication_token_setup as setup
        from ray._private.services import canonicalize_bootstrap_address

        raylet: Any = ray._raylet
        found: Any = canonicalize_bootstrap_address(address)
        if found is not None:
            host, _, port = found.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()  # Ray would wait much longer
            # The same steps as in `ray.init`. Ray's own file has a token only for clusters of this machine. In the mode
            # "token", a client of the GCS without a token would end the process.
            if address == "auto":
                setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
            setup.ensure_token_if_auth_enabled(create_token_if_missing=False)
            raylet.GcsClient(address=found)
    except RayAuthenticationError:
        raise
    except Exception:  # any other failure: `ray.init` meets it again, and reports it
        return


def _names_refusal(error: BaseException | None) -> bool:
    while error is not None:
        if _REFUSED in str(error):
            return True
        error = error.__cause__
    return False


def _refusal(address: str) -> str:
    where = "on this machine" if address == "auto" else f"at {address}"
    return (
        f"the Ray cluster {where} refused this process: its token is missing or wrong. Set RAY_AUTH_MODE=token, and "
        "RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file, to the token of the cluster"
    )
