"""The verb `doctor`: asks the instance, collects the facts of this machine, and reports the findings of all checks."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from serve_bridge.cli.doctor import clocks, collection, deadlines, drains, files, forks, memory, places, ports, tokens
from serve_bridge.cli.doctor import versions as version_checks
from serve_bridge.cli.doctor.findings import Finding, Severity, error
from serve_bridge.cli.failures import Misused
from serve_bridge.cli.report import Report
from serve_bridge.client.client import Client, link_of
from serve_bridge.config.names import check_name
from serve_bridge.errors import ConfigError, NotAllowed, NotConnected, ServeBridgeError
from serve_bridge.instance.directories import base_directory
from serve_bridge.instance.instance import Instance
from serve_bridge.instance.instance_file import discovery_file
from serve_bridge.instance.key_files import KEY_FILE_VARIABLE, role_file, secret_file
from serve_bridge.instance.operations import Operation
from serve_bridge.instance.process_facts import EngineFacts, ProcessFacts, own_facts
from serve_bridge.instance.state_directory import state_directory
from serve_bridge.instance.tls_files import PREFIX, beside_key_file
from serve_bridge.printable import error_text, shown
from serve_bridge.process.gunicorn_timeout import gunicorn_timeout_s
from serve_bridge.wire.keys import OF_FILES

KEY_VARIABLES: Final = (KEY_FILE_VARIABLE, f"{PREFIX}KEY")
"""Variables with the path of a key."""
NEEDS_ENGINE: Final = (clocks.CHECK, ports.CHECK, tokens.CHECK, deadlines.CHECK, memory.CHECK)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of the command line.

    Attributes:
        name: The name of the instance.
        state: The directory given to `start --state`; None: the user's own one.
        app: The module of the web application; None: no module.
        unit: A systemd unit, by name or path; None: no unit.
        grace_s: terminationGracePeriodSeconds of a pod; None: no pod.
    """

    name: str = "default"
    state: str | None = None
    app: str | None = None
    unit: str | None = None
    grace_s: float | None = None


@dataclass
class Answers:
    """The answers of the instance, and the failures of questions.

    Attributes:
        engine: The facts about the engine; None: no answer.
        clocks: The clocks of both sides.
        instance: The instance; None: it was not found.
        status: Its status.
        replicas: The tries to connect to its replicas.
        drains_s: The time that each backend has to finish its work, in seconds.
        failures: The findings about failed questions.
        silence: Why the engine gave no facts; "": it gave them.
    """

    engine: EngineFacts | None = None
    clocks: clocks.ClockFacts | None = None
    instance: Instance | None = None
    status: Mapping[str, Any] | None = None
    replicas: list[ports.PortFacts] = field(default_factory=list)
    drains_s: dict[str, float] = field(default_factory=dict)
    failures: list[Finding] = field(default_factory=list)
    silence: str = ""


def examine(find: Callable[[], Client], asked: Asked) -> Report:
    """Check the instance that *find* returns, and this machine. The report's data has all findings.

    Raises:
        Misused: An option of *asked* has a wrong value, or its unit cannot be read.
    """
    _check(asked)
    limits = [] if asked.unit is None else [collection.unit_limit(asked.unit)]
    if asked.grace_s is not None:
        limits.append(drains.StopLimit("terminationGracePeriodSeconds", asked.grace_s))
    answers = ask(find)
    findings = [*answers.failures, *_of_this_machine(asked, answers), *_of_the_engine(answers)]
    findings += drains.check_drains(answers.drains_s, limits)
    return report_of(findings, _left_out(asked, answers))


def _check(asked: Asked) -> None:
    try:
        check_name("instance", asked.name)
    except ConfigError as failure:
        raise Misused(str(failure)) from None
    if asked.grace_s is not None and not (math.isfinite(asked.grace_s) and asked.grace_s >= 0):
        raise Misused(f"--grace-period must be a number of seconds from 0 on, such as 60, got {shown(asked.grace_s)}")


def ask(find: Callable[[], Client]) -> Answers:
    """Ask the instance that *find* returns."""
    answers = Answers()
    try:
        client = find()
    except (ServeBridgeError, OSError) as failure:
        answers.silence = "the engine did not answer"
        remedy = (
            "start the instance if it does not run; otherwise correct the address, the variable or the file that the "
            "text names"
            if isinstance(failure, NotConnected)
            else "correct the address, the variable or the file that the text names"
        )
        answers.failures.append(error("instance", error_text(failure), remedy))
        return answers
    try:
        link = link_of(client)
        answers.instance = link.instance
        answers.replicas = collection.ports_of_replicas(link.routing_table)
        asked_at = time.time()
        found = link.operate(Operation.DIAGNOSE)
        answered_at = time.time()
        answers.engine = EngineFacts.from_dict(found)
        answers.clocks = clocks.ClockFacts(asked_at, answered_at, answers.engine.time)
        answers.status = client.status()
        for name, config in client.list_backends().items():
            answers.drains_s[f"backend {name!r}"] = config.graceful_shutdown_timeout_s
    except NotAllowed:  # as it should be on a web host
        answers.silence = "the key of this process lacks the role manage"
    except (ServeBridgeError, OSError) as failure:
        answers.silence = "the engine did not answer"
        remedy = "upgrade the engine if it has an earlier version; otherwise read its log"
        answers.failures.append(error("instance", error_text(failure), remedy))
    finally:
        client.close()
    return answers


def _of_this_machine(asked: Asked, answers: Answers) -> Iterator[Finding]:
    instance = answers.instance
    name = asked.name if instance is None else instance.name
    state = _state_directory(name, asked.state)
    if asked.state is not None and not os.path.isdir(state or ""):
        raise Misused(f"--state {asked.state} has no folder {name} that this user can open; give it as for `start`")
    yield from version_checks.check_versions(ProcessFacts(**own_facts()), answers.engine)
    found = [collection.file_facts(path) for path in _private_paths(name, state, instance)]
    yield from files.check_files([each for each in found if each is not None], os.geteuid())
    kept = [collection.place_facts(base_directory(), "the sockets of the instance", is_lasting=False)]
    if state is not None and os.path.exists(state):  # a Path would raise if this user may not look there
        kept.append(collection.place_facts(state, "the kept state of the instance", is_lasting=True))
    # A web host on another machine has neither.
    yield from places.check_places(each for each in kept if instance is None or instance.directory)
    yield from forks.check_forks(collection.fork_facts(asked.app, os.environ))


def _state_directory(name: str, directory: str | None) -> Path | None:
    """Return the directory for the state of instance *name*; None if this user has no home, as in many containers."""
    try:
        return state_directory(name, directory)
    except ConfigError:
        return None


def _private_paths(name: str, state: Path | None, instance: Instance | None) -> Iterator[Path]:
    yield from (base_directory(), discovery_file(name))
    if state is not None:
        yield from (state, secret_file(name, None, str(state)))
        yield from (role_file(state, name, role) for role in OF_FILES)
    if instance is not None and instance.directory:
        yield from (Path(instance.directory), Path(instance.address))
    yield from (Path(given) for variable in KEY_VARIABLES if (given := os.environ.get(variable)))
    yield from beside_key_file(name)[1:2]  # the key of the certificate


def _of_the_engine(answers: Answers) -> Iterator[Finding]:
    engine, instance, status = answers.engine, answers.instance, answers.status
    if answers.clocks is not None:
        yield from clocks.check_clocks(answers.clocks)
    if engine is not None:
        has_token, shares_machine = collection.has_ray_token(os.environ), engine.host == socket.gethostname()
        yield from tokens.check_tokens(engine, has_token=has_token, shares_machine=shares_machine)
        yield from memory.check_memory(engine)
    tried = []
    if instance is not None and instance.controller.tcp:
        tried.append(collection.port_facts("the controller", *instance.controller.tcp))
    tried += answers.replicas
    if status is not None:
        tried += collection.ports_of_urls(status["http_urls"])
        timeouts_s = {name: each["timeout_s"] for name, each in status["endpoints"].items() if each["route"]}
        if collection.uses_gunicorn(os.environ):
            yield from deadlines.check_deadlines(timeouts_s, gunicorn_timeout_s())
    yield from ports.check_ports(tried)


def _left_out(asked: Asked, answers: Answers) -> dict[str, str]:
    """Return the checks that were not made, or only partly, each with the reason."""
    left: dict[str, str] = {}
    if answers.engine is None:
        left.update(dict.fromkeys(NEEDS_ENGINE, answers.silence))
    elif answers.engine.replicas_bytes is None:
        left[memory.CHECK] = "the memory of the replicas is not known"
    if answers.engine is not None and not collection.uses_gunicorn(os.environ):
        left[deadlines.CHECK] = "gunicorn is not installed here"
    if asked.unit is None and asked.grace_s is None:
        left[drains.CHECK] = "give --unit or --grace-period"
    elif answers.status is None:
        left[drains.CHECK] = answers.silence
    if asked.app is None:
        left[forks.CHECK] = "give --app to import the web application too"
    return left


def report_of(findings: Iterable[Finding], left_out: Mapping[str, str]) -> Report:
    """Return the report: errors first, then warnings, then the checks that were left out."""
    ordered = sorted(findings, key=lambda each: each.severity is not Severity.ERROR)
    lines = []
    for each in ordered:
        lines += [f"{each.severity}: {each.check}: {each.text}", f"    remedy: {each.remedy}"]
    lines += [f"left out: {check}: {why}" for check, why in left_out.items()]
    errors = sum(each.severity is Severity.ERROR for each in ordered)
    lines.append(f"{errors} errors, {len(ordered) - errors} warnings")
    data = {"findings": [asdict(each) for each in ordered], "left_out": dict(left_out)}
    return Report(data, "\n".join(lines))
