"""The command group `flask serve-bridge`: `deploy`, `status`, `traffic` and so on, with the settings of the app.

Rule 1: a command does the same as the Python API, for the instance and the backends of the app.
Rule 2: an error is one line on stderr. The exit code is 1 for a failure, and 2 for a wrong command line.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo, pass_script_info, run_command, with_appcontext
from flask.helpers import get_debug_flag
from werkzeug.serving import is_running_from_reloader

from serve_bridge.adapters.flask.current_bridge import EXTENSION
from serve_bridge.cli.click_commands import asked, clear_errors, parameters, show
from serve_bridge.cli.declarations import COMMANDS, DEPLOY_OPTIONS, Command
from serve_bridge.printable import error_text

if TYPE_CHECKING:
    from serve_bridge.adapters.flask.flask_bridge import FlaskBridge
    from serve_bridge.client.client import Client

group = AppGroup("serve-bridge", help="Deploy, show and change the backends of the app.")


def _command(declared: Command) -> click.Command:
    """Return the command for the instance of the app."""

    def run(form: str, **given: Any) -> None:
        # Late, here and below: every web worker loads this module, but does not run a command.
        from serve_bridge.cli import verbs

        with clear_errors(), _connected() as (client, _):
            show(verbs.run(declared.name, client, given), form)

    params = parameters(declared.options, declared.arguments)
    return click.Command(declared.name, params=params, callback=with_appcontext(run), help=declared.help)


def _deploy(yes: bool, form: str, modules: tuple[str, ...], project: str | None, **how: Any) -> None:
    """Deploy the backends and endpoints that MODULES declare; by default those of SERVE_BRIDGE_BACKENDS."""
    from serve_bridge.adapters.flask.flask_bridge import project_of
    from serve_bridge.cli import verbs

    with clear_errors(), _connected() as (client, bridge):
        what = modules or bridge.settings.backends
        if not what:
            raise click.UsageError("nothing to deploy: set SERVE_BRIDGE_BACKENDS, or name MODULES")
        confirm = verbs.confirmation(yes, asked)
        show(verbs.deploy(client, what, project=project or project_of(current_app), confirm=confirm, **how), form)


_modules = [*parameters(DEPLOY_OPTIONS), click.Argument(["modules"], nargs=-1)]
group.add_command(
    click.Command("deploy", params=_modules, callback=with_appcontext(_deploy), help=inspect.getdoc(_deploy))
)
for _declared in COMMANDS:
    group.add_command(_command(_declared))


@group.command(params=parameters())
def check(form: str) -> None:
    """Check the app for production: missing instance, unknown endpoints, undeployed backends, long timeouts."""
    from serve_bridge.adapters.flask.diagnosis import diagnose

    with clear_errors():
        report, failed = diagnose(current_app, _bridge())
    show(report, form)
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
    from serve_bridge.client.client import find_client

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
