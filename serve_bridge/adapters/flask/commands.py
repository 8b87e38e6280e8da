"""The command group `flask serve-bridge`: `deploy`, `status`, `traffic` and so on, with the settings of the app.

Rule 1: a command does the same as the Python API, for the instance and the backends of the app.
Rule 2: an error is one line on stderr. The exit code is 1 for a failure, and 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo, pass_script_info, run_command
from flask.helpers import get_debug_flag
from werkzeug.serving import is_running_from_reloader

from serve_bridge.adapters.flask.current_bridge import EXTENSION
from serve_bridge.printable import error_text

if TYPE_CHECKING:
    from serve_bridge.adapters.flask.flask_bridge import FlaskBridge
    from serve_bridge.cli.report import Report
    from serve_bridge.client.client import Client

_form = click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    type=click.Choice(["table", "json"]),
    help="Format of the output.",
)

group = AppGroup("serve-bridge", help="Deploy, show and change the backends of the app.")


@group.command()
@click.option("--project", default=None, help="Owner of the deployment; default: the app's import name.")
@click.option("--traffic", is_flag=True, help="Apply declared traffic to existing endpoints too.")
@click.option("--prune", is_flag=True, help="Delete backends and endpoints that the project no longer declares.")
@click.option("--yes", is_flag=True, help="Let --prune delete without asking.")
@click.option("--force", is_flag=True, help="Replace the replicas of unchanged backends too.")
@click.option("--take-over", is_flag=True, help="Take over declared names of another project, or made by hand.")
@click.option("--dry-run", is_flag=True, help="Show the changes only.")
@_form
@click.argument("modules", nargs=-1)
def deploy(yes: bool, form: str, modules: tuple[str, ...], project: str | None, **how: Any) -> None:
    """Deploy the backends and endpoints that MODULES declare; by default those of SERVE_BRIDGE_BACKENDS."""
    # Late, here and below: every web worker loads this module, but does not run a command.
    from serve_bridge.adapters.flask.flask_bridge import project_of
    from serve_bridge.cli import verbs as commands

    with _clear_errors(), _connected() as (client, bridge):
        what = modules or bridge.settings.backends
        if not what:
            raise click.UsageError("nothing to deploy: set SERVE_BRIDGE_BACKENDS, or name MODULES")
        confirm = commands.confirmation(yes, _asked)
        _print(commands.deploy(client, what, project=project or project_of(current_app), confirm=confirm, **how), form)


@group.command()
@_form
def status(form: str) -> None:
    """Show the instance's proxies, backends, replicas and endpoints."""
    from serve_bridge.cli import verbs as commands

    with _clear_errors(), _connected() as (client, _):
        _print(commands.status(client), form)


@group.command()
@_form
@click.argument("endpoint", required=False)
@click.argument("weights", nargs=-1)
def traffic(form: str, endpoint: str | None, weights: tuple[str, ...]) -> None:
    """Show the traffic of all endpoints, or set the traffic of one: traffic ENDPOINT a=0.9 b=0.1."""
    from serve_bridge.cli import verbs as commands

    with _clear_errors(), _connected() as (client, _):
        _print(commands.traffic(client, endpoint, weights), form)


@group.command()
@_form
@click.argument("endpoint")
@click.argument("backend")
@click.argument("proportion")
def shadow(form: str, endpoint: str, backend: str, proportion: str) -> None:
    """Send copies of a PROPORTION of an endpoint's requests to BACKEND; 0 stops the copies."""
    from serve_bridge.cli import verbs as commands

    with _clear_errors(), _connected() as (client, _):
        _print(commands.shadow(client, endpoint, backend, proportion), form)


@group.command()
@_form
@click.option("--method", default=None, help="Method of the backend; default: __call__.")
@click.option("--timeout", "timeout_s", default=None, type=float, help="Timeout in seconds.")
@click.argument("endpoint")
@click.argument("data", required=False)
def call(form: str, method: str | None, timeout_s: float | None, endpoint: str, data: str | None) -> None:
    """Call ENDPOINT with DATA, which is JSON; "-" reads the JSON from standard input."""
    from serve_bridge.cli import verbs as commands

    with _clear_errors(), _connected() as (client, _):
        given = sys.stdin.read() if data == "-" else data
        _print(commands.call(client, endpoint, given, method=method, timeout_s=timeout_s), form)


@group.command()
@_form
def check(form: str) -> None:
    """Check the app for production: missing instance, unknown endpoints, undeployed backends, long timeouts."""
    from serve_bridge.adapters.flask.diagnosis import diagnose

    with _clear_errors():
        report, failed = diagnose(current_app, _bridge())
    _print(report, form)
    if failed:
        raise SystemExit(1)


@click.command(params=list(run_command.params))
@pass_script_info
@click.pass_context
def dev(ctx: click.Context, info: ScriptInfo, /, **options: Any) -> None:
    """Run the development server with the backends inside it: no Ray, no instance, one command.

    Its options are those of `flask run`.
    """
    # If the app cannot be loaded, `flask run` reports that, and waits until the code is fixed.
    with contextlib.suppress(Exception):
        bridge = _make_local(info)
        reload = get_debug_flag() if options["reload"] is None else options["reload"]
        if bridge is not None and (is_running_from_reloader() or not reload):
            _start(bridge)
    ctx.invoke(run_command, **options)


group.add_command(dev)


def _make_local(info: ScriptInfo) -> FlaskBridge | None:
    from serve_bridge.adapters.flask.flask_bridge import FlaskBridge, bridge_of

    app = info.load_app()
    bridge = bridge_of(app)
    if bridge is not None and not bridge.is_local:
        bridge = app.extensions[EXTENSION] = FlaskBridge(replace(bridge.settings, runtime="local"))
    return bridge


def _start(bridge: FlaskBridge) -> None:
    try:
        names = bridge.client().list_backends()
    except Exception as error:  # user code may raise any exception; requests will report it again
        click.secho(f" * The backends do not start: {error_text(error)}", err=True, fg="red")
    else:
        click.echo(f" * Backends inside this process: {', '.join(names) or 'none are declared'}")


def _bridge() -> FlaskBridge:
    from serve_bridge.adapters.flask.flask_bridge import bridge_of

    bridge = bridge_of(current_app)
    if bridge is None:
        raise click.UsageError("this app has no serve_bridge; call ServeBridge().init_app(app)")
    return bridge


@contextlib.contextmanager
def _connected() -> Iterator[tuple[Client, FlaskBridge]]:
    """Yield a client of its own, since the app's client may be in use."""
    from serve_bridge.client.instance_search import find_client

    bridge = _bridge()
    if bridge.is_local:
        raise click.ClickException(
            "this app runs its backends inside its own process (SERVE_BRIDGE_RUNTIME is 'local'), "
            "so no other process reaches them; run `flask serve-bridge dev`, or remove the setting"
        )
    client = find_client(bridge.settings.address, bridge.settings.name)
    try:
        yield client, bridge
    finally:
        client.close()


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn an error that a user can fix into one line and an exit code."""
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        from serve_bridge.cli.failures import failure_of

        failure = failure_of(error)
        if failure is None:
            raise
        ended = click.ClickException(failure.text)
        ended.exit_code = failure.code  # type: ignore[misc]  # click has it as an attribute of the class
        raise ended from None


def _asked(text: str) -> bool:
    return click.confirm(text, err=True)


def _print(report: Report, form: str) -> None:
    click.echo(report.formatted(form))
