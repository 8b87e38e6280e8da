"""The commands that every command line has, each declared once.

Rule 1: a command line makes commands of its own tool out of the declarations, and adds how it finds the client.
Rule 2: this module loads nothing for the work, because each web worker of Flask loads the declarations.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Option(NamedTuple):
    """An option. Its *kind* is the type of its value; an option of the kind bool has no value."""

    flag: str
    help: str
    kind: type[bool] | type[float] | type[str] = bool
    name: str = ""

    @property
    def key(self) -> str:
        """The name of its value."""
        return self.name or self.flag.removeprefix("--").replace("-", "_")


class Argument(NamedTuple):
    """An argument with one value, at most one ("?"), or any number ("*")."""

    name: str
    values: Literal["1", "?", "*"] = "1"


class Command(NamedTuple):
    """A command that `verbs.run` runs by its name."""

    name: str
    help: str
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()


COMMANDS: Final = (
    Command("status", "Show the instance's proxies, backends, replicas and endpoints."),
    Command(
        "traffic",
        "Show the traffic of all endpoints, or set the traffic of one: traffic ENDPOINT a=0.9 b=0.1.",
        arguments=(Argument("endpoint", "?"), Argument("weights", "*")),
    ),
    Command(
        "shadow",
        "Send copies of a PROPORTION of an endpoint's requests to BACKEND, from 0 to 1; 0 stops the copies.",
        arguments=(Argument("endpoint"), Argument("backend"), Argument("proportion")),
    ),
    Command(
        "call",
        'Call ENDPOINT with DATA, which is JSON; "-" reads the JSON from standard input.',
        (
            Option("--method", "Method of the backend; default: __call__.", str),
            Option("--timeout", "Timeout in seconds.", float, "timeout_s"),
        ),
        (Argument("endpoint"), Argument("data", "?")),
    ),
)
"""The commands that need only a client."""
DEPLOY_OPTIONS: Final = (
    Option("--project", "Owner of the deployment; default: the name of the application or of the top package.", str),
    Option("--traffic", "Apply declared traffic to existing endpoints too."),
    Option("--prune", "Delete backends and endpoints that the project no longer declares."),
    Option("--yes", "Let --prune delete without asking."),
    Option("--force", "Replace the replicas of unchanged backends too."),
    Option("--take-over", "Take over declared names of another project, or made by hand."),
    Option("--dry-run", "Show the changes only."),
)
"""The options of `deploy`, whose modules each command line finds in its own way."""
