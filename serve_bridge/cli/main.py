"""The command line: `serve-bridge start`, `deploy`, `status`, `traffic` and so on, also as `python -m serve_bridge`.

Rule 1: the command line only translates options, answers and errors of the Python API.
Rule 2: an error is one line on stderr. Exit code 1 is a failure, and 2 a wrong command line.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

import serve_bridge as serve
from serve_bridge.cli import verbs
from serve_bridge.cli.click_commands import asked, clear_errors, parameters, show
from serve_bridge.cli.declarations import COMMANDS, DEPLOY_OPTIONS, Command
from serve_bridge.cli.doctor.doctor import Asked, examine
from serve_bridge.cli.failures import Misused
from serve_bridge.client.client import Client, find_client
from serve_bridge.client.instance_start import address_over_tcp, ensure_started, keys_directory, lasting_address
from serve_bridge.client.instance_upgrade import upgrade_instance
from serve_bridge.client.key_changes import retire_keys, rotate_keys
from serve_bridge.config.http_options import MOST_PROXIES, HTTPOptionsDict
from serve_bridge.instance.remains import remove_remains

_NO_CLUSTER = (
    "no Ray cluster is running{where}. An instance lives in one: start it with `ray start --head`, "
    "or name another with --ray-address"
)
_name = click.option("--name", default="default", show_default=True, help="Which instance.")
_instance = click.option(
    "--address",
    default=None,
    help="What `start` printed; default: SERVE_BRIDGE_ADDRESS, else the instance of that name on this machine.",
)
_form = click.option(
    "--format", "form", default="table", show_default=True, type=click.Choice(["table", "json"]), help="For whom."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(serve.__version__, prog_name="serve-bridge")
def main() -> None:
    """Start, look at, change and stop instances of serve_bridge."""


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
@click.option(
    "--proxies-per-node",
    default=1,
    show_default=True,
    type=click.IntRange(1, MOST_PROXIES),
    help="Number of proxies on a node. They share the port, and each uses up to one core.",
)
@click.option("--ssl-certfile", default=None, help="PEM file with the certificate, for https.")
@click.option("--ssl-keyfile", default=None, help="PEM file with its key; default: it is in the certificate's file.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    help="A host by which clients may address the proxies, such as example.com or *.example.com; '*' for any. Can be "
    "repeated; default: the loopback names if --host is a loopback address, otherwise any.",
)
@click.option(
    "--ray-address", default=None, help="The Ray cluster; default: RAY_ADDRESS, else the one on this machine."
)
@click.option(
    "--state",
    default=None,
    help="Directory in which the instance keeps its backends, endpoints and traffic, in a folder of its name. The next "
    "start restores them. Default: ~/.local/state/serve_bridge, or serve_bridge below XDG_STATE_HOME.",
)
@click.option("--no-state", is_flag=True, help="Keep no state.")
@click.option("--fresh", is_flag=True, help="Begin empty. A kept state moves to the folder before-fresh beside it.")
@click.option("--listen", default=None, help="HOST:PORT for web workers on other hosts; default: none.")
@click.option("--advertise", default=None, help="HOST:PORT under which other hosts reach --listen, if it differs.")
@click.option("--data-ports", default=None, help="Ports of replicas and proxies, as 7001-7050; default: free ones.")
@click.option("--key-file", default=None, help="File with the secret; default: in the user's state directory.")
@click.option("--tls-cert", default=None, help="Certificate of the engine, for TLS with web workers and other nodes.")
@click.option("--tls-key", default=None, help="The key of --tls-cert.")
@click.option("--tls-ca", default=None, help="Certificate of the authority that signs those of web workers and nodes.")
def start(
    name: str,
    host: str,
    port: int,
    location: str,
    proxies_per_node: int,
    ssl_certfile: str | None,
    ssl_keyfile: str | None,
    allowed_hosts: tuple[str, ...],
    ray_address: str | None,
    state: str | None,
    no_state: bool,
    fresh: bool,
    **network: Any,
) -> None:
    """Start an instance on a running Ray cluster; it stays until `shutdown`.

    If it runs already, with the same options, its address is printed and the exit code is 0 as well.
    """
    http_options: HTTPOptionsDict = {
        "host": host,
        "port": port,
        "location": serve.Location(location),
        "proxies_per_node": proxies_per_node,
        "ssl_certfile": ssl_certfile,
        "ssl_keyfile": ssl_keyfile,
        "allowed_hosts": allowed_hosts or None,
    }
    # "auto" starts no Ray of its own. Otherwise Ray and the instance would end with this command.
    with clear_errors(no_cluster=_NO_CLUSTER.format(where=f" at {ray_address}" if ray_address else " here")):
        if no_state and state is not None:
            raise Misused(f"--state {state} and --no-state contradict each other")
        client, differences = ensure_started(
            name, http_options, ray_address or "auto", False if no_state else state, fresh=fresh, **network
        )
        if differences:
            raise serve.ConfigError(
                f"instance {name!r} runs already, with other options: {'; '.join(differences)}. "
                "Shut it down first, or use another --name"
            )
        click.echo(f"instance {name} is running\naddress  {lasting_address(client)}")
        if network["listen"] is not None:
            keys = keys_directory(name, network["key_file"], False if no_state else state)
            click.echo(f"remote   {address_over_tcp(client)}\nkeys     {keys}")
        for url in client.http_urls:
            click.echo(f"http     {url}")


def _deploy(name: str, address: str | None, yes: bool, form: str, modules: tuple[str, ...], **how: Any) -> None:
    """Bring an instance to what MODULES declare.

    A module is an import path such as shop.backends, looked for in the current directory first.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script has its own directory there
    with clear_errors(), _connected(address, name) as client:
        show(verbs.deploy(client, modules, confirm=verbs.confirmation(yes, asked), **how), form)


_modules = [*parameters(DEPLOY_OPTIONS), click.Argument(["modules"], nargs=-1, required=True)]
main.add_command(
    _name(_instance(click.Command("deploy", params=_modules, callback=_deploy, help=inspect.getdoc(_deploy))))
)


@main.command()
@_name
@_instance
@_form
@click.option("--state", default=None, help="The directory given to `start --state`; default: the user's own one.")
@click.option(
    "--app", default=None, help="Module of the web application, such as shop.wsgi or shop.wsgi:app. It is imported."
)
@click.option("--unit", default=None, help="systemd unit of the web server or of Ray: name, or path of its file.")
@click.option("--grace-period", "grace_s", default=None, type=float, help="terminationGracePeriodSeconds of the pod.")
def doctor(name: str, address: str | None, form: str, **asked: Any) -> None:
    """Check this machine and an instance for known faults; each finding has a remedy.

    The exit code is 0 without a finding, 1 after a warning or an error, and 2 after a wrong option.
    """
    with clear_errors():
        report = examine(lambda: find_client(address, name), Asked(name=name, **asked))
        show(report, form)
    if report.data["findings"]:
        raise click.exceptions.Exit(1)


@main.command()
@_name
@_instance
@click.option("--with-code", is_flag=True, help="Include the code, in base64. Then `apply` needs no other file.")
def export(name: str, address: str | None, with_code: bool) -> None:
    """Print the state of an instance as JSON: backends, endpoints, traffic, shadows and owners."""
    with clear_errors(), _connected(address, name) as client:
        show(verbs.export(client, with_code=with_code), "table")


@main.command()
@_name
@_instance
@click.option("--yes", is_flag=True, help="Do not ask before something is deleted.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@_form
@click.argument("file")
def apply(name: str, address: str | None, yes: bool, dry_run: bool, form: str, file: str) -> None:
    """Make an instance match FILE, which `export` printed or which an instance kept; "-" reads standard input.

    Anything that FILE does not name is deleted.
    """
    with clear_errors(), _connected(address, name) as client:
        confirm = verbs.confirmation(yes, asked, what="apply")
        show(verbs.apply(client, file, confirm=confirm, dry_run=dry_run), form)


def _command(declared: Command) -> click.Command:
    """Return the command for an instance that the user names."""

    def run(name: str, address: str | None, form: str, **given: Any) -> None:
        with clear_errors(), _connected(address, name) as client:
            show(verbs.run(declared.name, client, given), form)

    params = parameters(declared.options, declared.arguments)
    return _name(_instance(click.Command(declared.name, params=params, callback=run, help=declared.help)))


for _declared in COMMANDS:
    main.add_command(_command(_declared))


@main.command()
@_name
@click.option(
    "--ray-address", default=None, help="The Ray cluster; default: RAY_ADDRESS, else the one on this machine."
)
@click.option(
    "--allow-closed-port",
    is_flag=True,
    help="Upgrade even if the port of an earlier version's proxies closes for a moment.",
)
def upgrade(name: str, ray_address: str | None, allow_closed_port: bool) -> None:
    """Replace the processes of a running instance by processes of this version, which all nodes must have.

    Callers lose nothing. If a backend cannot start, its old replicas serve on, and a second call continues.
    """
    with clear_errors(no_cluster=_NO_CLUSTER.format(where=f" at {ray_address}" if ray_address else " here")):
        upgrade_instance(name, ray_address or "auto", click.echo, may_close_port=allow_closed_port)
        click.echo(f"instance {name} has version {serve.__version__}")


@main.command()
@_name
@_instance
@click.option("--forget", is_flag=True, help="Remove the kept state and the keys too.")
def shutdown(name: str, address: str | None, forget: bool) -> None:
    """Finish what an instance has begun, then stop all of it. Its state and its keys stay for the next start.

    If the instance has ended with its cluster, only its files are removed.
    """
    with clear_errors():
        try:
            client = find_client(address, name)
        except serve.NotConnected:
            found = remove_remains(address, name)
            click.echo(f"instance {found} had ended already; its files are removed")
            if forget:
                click.echo("its kept state stays; `serve-bridge start --fresh` begins without it")
            return
        found = client.name
        client.shutdown(forget)
        click.echo(f"instance {found} has ended")


@main.group()
def keys() -> None:
    """Replace the keys of an instance without a stop. Runs on the host of `start`."""


def _key_command(verb: str, help: str, change: Callable[..., tuple[str, bool]], said: str) -> click.Command:
    def run(name: str, key_file: str | None, state: str | None) -> None:
        with clear_errors():
            directory, told = change(name, key_file, state)
            click.echo(said.format(directory=directory))
            uses = "uses them" if told else "does not run; its next start uses them"
            click.echo(f"instance {name} {uses}")

    command = click.Command(verb, callback=run, help=help)
    for option in (
        click.option("--state", default=None, help="Directory of the state, as for `start`."),
        click.option("--key-file", default=None, help="File with the secret, as for `start`."),
        _name,
    ):
        command = option(command)
    return command


keys.add_command(
    _key_command(
        "rotate",
        "Make new keys. The old ones stay valid until `keys retire`, so that you can copy the new key files first.",
        rotate_keys,
        "new keys are in {directory}; copy the key files to the web hosts, then run `serve-bridge keys retire`",
    )
)
keys.add_command(
    _key_command(
        "retire",
        "End the old keys, and the connections that were made with them.",
        retire_keys,
        "only the newest keys in {directory} are valid",
    )
)


@contextlib.contextmanager
def _connected(address: str | None, name: str) -> Iterator[Client]:
    client = find_client(address, name)
    try:
        yield client
    finally:
        client.close()
