"""Commands of click, made of the declarations: for `serve-bridge` and for `flask serve-bridge`.

Rule 1: an error is one line on stderr. Exit code 1 is a failure, and 2 a wrong command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from serve_bridge.cli.declarations import Argument, Option
from serve_bridge.cli.failures import failure_of
from serve_bridge.errors import ServeBridgeError

if TYPE_CHECKING:
    from serve_bridge.cli.report import Report


def parameters(options: Iterable[Option] = (), arguments: Iterable[Argument] = ()) -> list[click.Parameter]:
    """Return the parameters of a command that prints a report."""
    form = click.Choice(["table", "json"])
    return [
        *(
            click.Option([each.flag, each.key], is_flag=each.kind is bool, type=each.kind, help=each.help)
            for each in options
        ),
        click.Option(["--format", "form"], default="table", show_default=True, type=form, help="Format of the output."),
        *(
            click.Argument([each.name], required=each.values == "1", nargs=-1 if each.values == "*" else 1)
            for each in arguments
        ),
    ]


class Ended(click.ClickException):
    """The end of a command after an error."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click has it as an attribute of the class


@contextmanager
def clear_errors(no_cluster: str | None = None) -> Iterator[None]:
    """Turn the errors within the reach of users into a line and an exit code.

    *no_cluster* is the line for a Ray cluster that does not answer.
    """
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        is_of_ray = isinstance(error, ConnectionError) and not isinstance(error, ServeBridgeError)
        raise Ended(no_cluster if no_cluster and is_of_ray else failure.text, failure.code) from None


def asked(text: str) -> bool:
    """Ask the user at the terminal. Programs may read stdout, so the question is on stderr."""
    return click.confirm(text, err=True)


def show(report: Report, form: str) -> None:
    """Print *report*."""
    click.echo(report.formatted(form))
