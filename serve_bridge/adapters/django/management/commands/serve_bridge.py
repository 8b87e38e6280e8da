"""The command `manage.py serve_bridge`: deploy to the project's instance, show it and change it.

Rule 1: `serve_bridge.cli.verbs` does the work. This module parses the command line, and turns errors into Django's.
Rule 2: an error is one line on stderr. The exit code is 1 for a failure, and 2 for a wrong command line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from serve_bridge.adapters.django.checks import TAG
from serve_bridge.adapters.django.declarations import declared, project
from serve_bridge.adapters.django.forwarded_urls import forwarded_urls
from serve_bridge.adapters.django.settings import RUNTIME_VARIABLE, SETTING, options
from serve_bridge.cli import declarations, verbs
from serve_bridge.cli.declarations import COMMANDS, DEPLOY_OPTIONS, Argument, Option
from serve_bridge.cli.failures import failure_of
from serve_bridge.cli.report import Report
from serve_bridge.client.client import Client, find_client
from serve_bridge.errors import EndpointNotFound


class Command(BaseCommand):
    """Verbs over the project's instance."""

    help = "Deploys the declarations in backends.py of installed apps; shows, changes and calls the project's instance."
    requires_system_checks: ClassVar[list[str]] = []  # `check` runs those of serve_bridge, and runserver runs all

    def add_arguments(self, parser: Any) -> None:
        """Declare the verbs."""
        found = parser.add_subparsers(dest="verb", required=True, metavar="verb")
        _add(_verb(found, "deploy", "Deploy the declarations in backends.py of the installed apps."), DEPLOY_OPTIONS)
        for each in COMMANDS:
            _add(_verb(found, each.name, each.help), each.options, each.arguments)
        _verb(
            found,
            "check",
            "Check the setting, whether the instance is as declared, and whether it has the endpoints of all views.",
        )
        dev = found.add_parser("dev", help="Run the development server, with the backends inside its process.")
        dev.add_argument("addrport", nargs="?", help="As for runserver.")
        dev.add_argument("--noreload", action="store_false", dest="use_reloader", help="As for runserver.")

    def handle(self, *args: Any, verb: str, **given: Any) -> None:
        """Run a verb.

        Raises:
            CommandError: The verb failed.
        """
        if verb == "dev":
            _run_server(given["addrport"], use_reloader=given["use_reloader"])
            return
        if verb == "check":
            self.check(tags=[TAG], include_deployment_checks=True)
        with _clear_errors(), _connected(given["address"], given["name"]) as client:
            report = _WORK[verb](client, given)
        self.stdout.write(report.formatted(given["format"]))
        if verb == "check" and not report.data["ok"]:
            raise CommandError("the instance is not what the project expects")


def _verb(parsers: Any, name: str, does: str) -> Any:
    parser = parsers.add_parser(name, help=does, description=does)
    parser.add_argument("--address", help=f"Address that `serve-bridge start` printed; default: that of {SETTING}.")
    parser.add_argument("--name", help=f"Name of the instance; default: that of {SETTING}.")
    parser.add_argument("--format", choices=["table", "json"], default="table", help="Format of the output.")
    return parser


def _add(parser: Any, options: Iterable[Option], arguments: Iterable[Argument] = ()) -> None:
    for option in options:
        how: dict[str, Any] = {"action": "store_true"} if option.kind is bool else {"type": option.kind}
        parser.add_argument(option.flag, dest=option.key, help=option.help, **how)
    for argument in arguments:
        parser.add_argument(argument.name, **({} if argument.values == "1" else {"nargs": argument.values}))


def _deploy(client: Client, given: Mapping[str, Any]) -> Report:
    how = {each.key: given[each.key] for each in DEPLOY_OPTIONS if each.key not in ("project", "yes")}
    confirm = verbs.confirmation(given["yes"], _asked)
    return verbs.deploy(client, _declared(), project=given["project"] or project(), confirm=confirm, **how)


def _asked(text: str) -> bool:
    sys.stderr.write(f"{text} [y/N]: ")  # a program may read stdout
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _check(client: Client, _: Mapping[str, Any]) -> Report:
    known = client.list_endpoints()
    missing = {spec.pattern: spec.endpoint for spec in options().routes if spec.endpoint not in known}
    lines = [f"ROUTES[{pattern!r}]: {EndpointNotFound(endpoint, known)}" for pattern, endpoint in missing.items()]
    others = {url.path: url.route.endpoint for url in forwarded_urls() if not url.is_listed}
    urls = {path: endpoint for path, endpoint in others.items() if endpoint not in known}
    lines += [f"URL {path!r}: {EndpointNotFound(endpoint, known)}" for path, endpoint in urls.items()]
    found = declared()
    changes = verbs.deploy(client, found, project=project(), dry_run=True).data["changes"] if found else []
    lines += [f"to deploy: {change['kind']} {change['name']}: {change['reason']}" for change in changes]
    data = {"address": client.address, "ok": not lines, "missing": missing | urls, "changes": changes}
    return Report(
        data, "\n".join(lines) or f"instance {client.name} is as declared and has the endpoints of all routes and views"
    )


def _run(command: declarations.Command, client: Client, given: Mapping[str, Any]) -> Report:
    names = [*(option.key for option in command.options), *(argument.name for argument in command.arguments)]
    return verbs.run(command.name, client, {name: given[name] for name in names})


_WORK: Mapping[str, Callable[[Client, Mapping[str, Any]], Report]] = {
    "deploy": _deploy,
    "check": _check,
    **{command.name: partial(_run, command) for command in COMMANDS},
}


def _declared() -> list[Any]:
    found = declared()
    if not found:
        raise CommandError("nothing is declared: no installed app has a backends.py with @serve.backend in it")
    return list(found)


@contextmanager
def _connected(address: str | None, name: str | None) -> Iterator[Client]:
    chosen = options()
    if chosen.runtime == "local" and address is None and name is None:
        raise CommandError(
            "RUNTIME is 'local': the instance lives and ends with a web process, and this is another process; "
            "run `manage.py serve_bridge dev`, or name an instance with --name or --address"
        )
    client = find_client(address or chosen.address, name or chosen.name)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn an error that a user can fix into one line."""
    try:
        yield
    except CommandError:
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise CommandError(failure.text, returncode=failure.code) from error


def _run_server(addrport: str | None, *, use_reloader: bool) -> None:
    # The reloader runs this command again in a child process. There, runserver does not start a second reloader.
    os.environ[RUNTIME_VARIABLE] = "local"
    call_command("runserver", *([addrport] if addrport else []), use_reloader=use_reloader)
