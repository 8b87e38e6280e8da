"""The command line: `serve-bridge start`, `status` and `shutdown`, also as `python -m serve_bridge`.

Rule 1: it does nothing that the Python API does not; it only translates options, answers and errors.
Rule 2: an error is one line on stderr; 1 is a failure, 2 a command that was written wrongly.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import serve_bridge as serve
from serve_bridge.api import find_client
from serve_bridge.client import Client

_NO_CLUSTER = (
    "no Ray cluster is running{where}. An instance lives in one: start it with `ray start --head`, "
    "or name another with --address"
)
_name = click.option("--name", default="default", show_default=True, help="Which instance.")
_instance = click.option(
    "--address",
    default=None,
    help="What `start` printed; default: SERVE_BRIDGE_ADDRESS, else the instance of that name on this machine.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(serve.__version__, prog_name="serve-bridge")
def main() -> None:
    """Start, look at and stop instances of serve_bridge."""


@main.command()
@_name
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the proxies listen.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks one.")
@click.option(
    "--location",
    default=serve.Location.HeadOnly.value,
    show_default=True,
    type=click.Choice([location.value for location in serve.Location]),
    help="One proxy on this node, one on every node, or none.",
)
@click.option("--address", default=None, help="The Ray cluster; default: RAY_ADDRESS, else the one on this machine.")
def start(name: str, host: str, port: int, location: str, address: str | None) -> None:
    """Start an instance on a running Ray cluster; it stays until `shutdown`."""
    http_options = {"host": host, "port": port, "location": location}
    # "auto" starts no Ray of its own, which would end with this command, and the instance with it.
    with _clear_errors(no_cluster=_NO_CLUSTER.format(where=f" at {address}" if address else " here")):
        client = serve.start(detached=True, name=name, http_options=http_options, address=address or "auto")
        click.echo(f"instance {name} is running\naddress  {client.address}")
        for url in client.http_urls:
            click.echo(f"http     {url}")


@main.command()
@_name
@_instance
@click.option("--format", "form", default="table", show_default=True, type=click.Choice(["table", "json"]))
def status(name: str, address: str | None, form: str) -> None:
    """Show an instance's proxies, backends, replicas and endpoints."""
    with _clear_errors(), _connected(address, name) as client:
        found = {"address": client.address, **client.status(), "endpoints": client.list_endpoints()}
    if form == "json":
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)


@main.command()
@_name
@_instance
def shutdown(name: str, address: str | None) -> None:
    """Finish what an instance has begun, then stop all of it."""
    with _clear_errors():
        client = find_client(address, name)
        found = client.name
        client.shutdown()
    click.echo(f"instance {found} has ended")


@contextlib.contextmanager
def _connected(address: str | None, name: str) -> Iterator[Client]:
    client = find_client(address, name)
    try:
        yield client
    finally:
        client.close()


@contextlib.contextmanager
def _clear_errors(no_cluster: str | None = None) -> Iterator[None]:
    """Turn the errors that a user can do something about into a line and exit code 1."""
    try:
        yield
    except (serve.ServeBridgeError, ImportError, OSError, ValueError, TimeoutError) as error:
        ours = isinstance(error, serve.ServeBridgeError)
        message = no_cluster if no_cluster and isinstance(error, ConnectionError) and not ours else str(error)
        raise click.ClickException(message) from None


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"instance {found['name']}  {'  '.join(found['http_urls']) or 'no proxy'}", markup=False)
    backends = Table("backend", "replicas", "failure", title="backends", title_justify="left")
    for name, backend in found["backends"].items():
        states: dict[str, int] = {}
        for state in backend["replicas"].values():
            states[state] = states.get(state, 0) + 1
        counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        backends.add_row(name, f"{counted or 'none'} of {backend['wanted']}", backend["failure"] or "")
    endpoints = Table("endpoint", "route", "methods", "traffic", "shadows", title="endpoints", title_justify="left")
    for name, endpoint in found["endpoints"].items():
        endpoints.add_row(
            name,
            endpoint["route"] or "",
            " ".join(endpoint["methods"]),
            _shares(endpoint["traffic"]),
            _shares(endpoint["shadows"]),
        )
    console.print(backends, endpoints)


def _shares(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.3g} {backend}" for backend, share in shares.items())
