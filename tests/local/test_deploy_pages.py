"""The files on the pages of docs/deploy: systemd checks its units, and the objects of Kubernetes have their fields."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import click
import httpx
import msgspec
import pytest
import yaml
from lightkube.models.core_v1 import PodTemplateSpec
from lightkube.models.meta_v1 import ObjectMeta

import serve_bridge as serve
from serve_bridge.cli.doctor.drains import check_drains, stop_limit_of
from serve_bridge.cli.main import main
from tests.adapters.support.pages import blocks_of
from tests.support.listening import free_port
from tests.support.listening_engine import port_of
from tests.support.programs import ROOT
from tests.support.shop import open_shop
from tests.support.waiting import wait_until

PAGES = ROOT / "docs" / "deploy"
NAMES = ("systemd", "containers", "kubernetes", "operations")


def files_of(page: str, language: str) -> dict[str, str]:
    """Return the files on a page, by the name in their first line."""
    blocks = [block.text for block in blocks_of(PAGES / f"{page}.md") if block.language == language]
    return {text.partition("\n")[0].removeprefix("# "): text for text in blocks}


OBJECTS: list[dict[str, Any]] = [
    each for text in files_of("kubernetes", "yaml").values() for each in yaml.safe_load_all(text)
]
CLUSTER = next(each for each in OBJECTS if each["kind"] == "RayCluster")
GROUPS = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]


def test_each_page_is_tested() -> None:
    """Every language on the pages has a test here."""
    assert sorted(page.stem for page in PAGES.glob("*.md")) == sorted(NAMES)
    languages = {block.language for name in NAMES for block in blocks_of(PAGES / f"{name}.md")}
    assert languages == {"ini", "python", "dockerfile", "yaml", "sh"}


# commands


def texts() -> Iterator[str]:
    """Yield the units, the shell blocks, and the command of the head's container."""
    for name in NAMES:
        yield from (block.text for block in blocks_of(PAGES / f"{name}.md") if block.language in ("ini", "sh"))
    container = GROUPS[0]["template"]["spec"]["containers"][0]
    yield container["lifecycle"]["postStart"]["exec"]["command"][-1]


def commands() -> Iterator[str]:
    """Yield each command line of serve-bridge on the pages."""
    for text in texts():
        for found in re.findall(r"(?:^|[ /])serve-bridge ([a-z].*)$", text, re.MULTILINE):
            yield found.partition(" > ")[0].strip()


COMMANDS = sorted(set(commands()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_options_that_exist(command: str) -> None:
    """Click reads it; nothing is run."""
    verb, *words = shlex.split(command)
    with main.make_context("serve-bridge", [verb, *words], resilient_parsing=False) as context:
        found = main.get_command(context, verb)
        assert found is not None
        assert isinstance(found.make_context(verb, words), click.Context)


def test_the_pages_have_commands() -> None:
    """They are found in units, YAML and shell."""
    assert {command.split()[0] for command in COMMANDS} == {"start", "shutdown", "deploy", "doctor", "export", "apply"}
    assert sum(command.startswith("start") for command in COMMANDS) == 2


@pytest.mark.parametrize("page", ["kubernetes", "systemd"])
def test_each_command_of_a_page_finds_the_instance(page: str) -> None:
    """By its name, and in a shell beside systemd by the user and the directory of the unit."""
    blocks = [block for block in blocks_of(PAGES / f"{page}.md") if block.language in ("ini", "sh")]
    lines = [(block.language, line) for block in blocks for line in block.text.splitlines() if "serve-bridge " in line]
    assert lines
    for language, line in lines:
        assert "--name shop" in line
        if (page, language) == ("systemd", "sh"):
            assert line.startswith("sudo -u serve XDG_RUNTIME_DIR=/run/serve ")
    unit = UNITS.get("/etc/systemd/system/serve-bridge.service", "")
    assert "User=serve\n" in unit
    assert "Environment=XDG_RUNTIME_DIR=/run/serve\n" in unit


def test_the_checks_of_doctor_are_those_of_the_table() -> None:
    """Each check has a row."""
    package = ROOT / "serve_bridge" / "cli" / "doctor"
    checks = {
        name for path in package.glob("*.py") for name in re.findall(r'^CHECK: Final = "(\w+)"', path.read_text(), re.M)
    }
    rows = re.findall(r"^\| `(\w+)` \|", (PAGES / "operations.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(checks | {"instance"})


# systemd

UNITS = files_of("systemd", "ini")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """All of them together, with the programs of this machine in place of those in /opt/serve."""
    for path, text in UNITS.items():
        (tmp_path / Path(path).name).write_text(text.replace("/opt/serve/bin/", f"{Path(sys.executable).parent}/"))
    names = [str(tmp_path / Path(path).name) for path in UNITS]
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *names], capture_output=True, text=True
    )
    assert (ran.returncode, [line for line in ran.stderr.splitlines() if str(tmp_path) in line]) == (0, [])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_would_refuse_a_wrong_unit(tmp_path: Path) -> None:
    """So the test before it proves something."""
    unit = tmp_path / "web.service"
    unit.write_text(UNITS["/etc/systemd/system/web.service"])  # its program is missing
    ran = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    assert ran.returncode
    assert "gunicorn" in ran.stderr


@pytest.mark.parametrize("path", UNITS)
def test_a_unit_stops_later_than_its_work(path: str) -> None:
    """By `serve-bridge doctor`'s own rule, with the default of backends and gunicorn's option."""
    drains = {"a backend": serve.BackendConfig().graceful_shutdown_timeout_s}
    if found := re.search(r"--graceful-timeout (\d+)", UNITS[path]):
        drains["gunicorn"] = float(found[1])
    assert list(check_drains(drains, [stop_limit_of(UNITS[path], path)])) == []


# Kubernetes


class HeadGroup(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Those fields of KubeRay's HeadGroupSpec that the page uses."""

    ray_start_params: dict[str, str]
    template: PodTemplateSpec


class WorkerGroup(HeadGroup, rename="camel", forbid_unknown_fields=True):
    """Those of its WorkerGroupSpec."""

    group_name: str
    min_replicas: int
    max_replicas: int
    replicas: int = 0


class RayClusterSpec(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Those of its RayClusterSpec."""

    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup]
    ray_version: str


class RayCluster(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """KubeRay's RayCluster; no package has its schema, so its fields are written down here."""

    api_version: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: ObjectMeta
    spec: RayClusterSpec


def check_fields(each: Mapping[str, Any]) -> None:
    """Assert that an object has the fields of its kind, of the right types, and no others.

    Raises:
        msgspec.ValidationError: A field is missing, or has another type.
    """
    group, _, version = each["apiVersion"].rpartition("/")
    if each["kind"] == "RayCluster":
        model: Any = RayCluster
    else:
        models = importlib.import_module(f"lightkube.models.{group.partition('.')[0] or 'core'}_{version}")
        model = getattr(models, each["kind"])
    # Unknown fields are dropped as the object is read.
    assert msgspec.to_builtins(msgspec.convert(each, model)) == each


@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: each["kind"])
def test_an_object_has_the_fields_of_kubernetes(each: dict[str, Any]) -> None:
    """The pods of a RayCluster are pods as all others."""
    check_fields(each)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("imagee", "x", AssertionError),
        ("ports", "8080", msgspec.ValidationError),
        ("name", None, msgspec.ValidationError),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "RayCluster"])
def test_another_field_is_noticed(kind: str, name: str, value: object, error: type[Exception]) -> None:
    """So the test before it proves something."""
    broken = deepcopy(next(each for each in OBJECTS if each["kind"] == kind))
    spec = broken["spec"]
    pod = spec["workerGroupSpecs"][0]["template"] if kind == "RayCluster" else spec["template"]
    pod["spec"]["containers"][0][name] = value
    with pytest.raises(error):
        check_fields(broken)


def named(kind: str, name: str) -> dict[str, Any]:
    """Return the object of this kind and name."""
    (found,) = [each for each in OBJECTS if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pods() -> list[dict[str, Any]]:
    """Return the templates of all pods."""
    return [named("Deployment", "web")["spec"]["template"], *(group["template"] for group in GROUPS)]


def selects(selector: dict[str, str]) -> list[dict[str, Any]]:
    """Return the templates of the pods with these labels."""
    return [pod for pod in pods() if selector.items() <= pod["metadata"]["labels"].items()]


def test_each_selector_finds_pods() -> None:
    """Of services, of the deployment, of the budget and of the policy."""
    web, engine = named("Deployment", "web")["spec"], named("NetworkPolicy", "shop-engine")["spec"]
    assert selects(named("Service", "web")["spec"]["selector"]) == [web["template"]]
    assert selects(web["selector"]["matchLabels"]) == [web["template"]]
    assert selects(named("PodDisruptionBudget", "web")["spec"]["selector"]["matchLabels"]) == [web["template"]]
    assert named("PodDisruptionBudget", "web")["spec"]["minAvailable"] < web["replicas"]
    assert len(selects(named("Service", "shop-control")["spec"]["selector"])) == 1
    assert len(selects(engine["podSelector"]["matchLabels"])) == 2
    callers = [each["from"][0]["podSelector"]["matchLabels"] for each in engine["ingress"]]
    assert [len(selects(labels)) for labels in callers] == [2, 1]


def test_ports_and_names_agree() -> None:
    """Of the command, the address, the service and the policy."""
    (start,) = [command for command in COMMANDS if "--advertise" in command]
    words = shlex.split(start)
    option = dict(pairwise(words))
    web = named("Deployment", "web")["spec"]["template"]["spec"]
    variables = {each["name"]: each["value"] for each in web["containers"][0]["env"]}
    assert variables["SERVE_BRIDGE_ADDRESS"] == f"serve-bridge://{option['--advertise']}/{option['--name']}"
    host, port = option["--advertise"].split(":")
    assert named("Service", host)["spec"]["ports"][0]["port"] == int(port)
    assert option["--listen"].endswith(f":{port}")
    opened = named("NetworkPolicy", "shop-engine")["spec"]["ingress"][1]["ports"]
    assert opened[0]["port"] == int(port)
    assert "{port}-{endPort}".format(**opened[1]) == option["--data-ports"]
    key = variables["SERVE_BRIDGE_KEY_FILE"]
    assert web["initContainers"][0]["command"][-1] == key
    assert Path(key).name == f"{option['--name']}.forward.key"


@pytest.mark.parametrize("pod", pods(), ids=["web", "head", "worker"])
def test_volumes_and_ports_of_a_pod_agree(pod: dict[str, Any]) -> None:
    """Each mount has a volume, and each probe a port."""
    spec = pod["spec"]
    volumes = {each["name"] for each in spec.get("volumes", ())}
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        assert {each["name"] for each in container.get("volumeMounts", ())} <= volumes
        ports = {each["name"] for each in container.get("ports", ())}
        if "readinessProbe" in container:
            assert container["readinessProbe"]["httpGet"]["port"] in ports


def test_a_web_pod_has_time_to_finish() -> None:
    """The pause and gunicorn's time fit into the grace period, and the pod has no token of Ray."""
    spec = named("Deployment", "web")["spec"]["template"]["spec"]
    (pause,) = [int(each["lifecycle"]["preStop"]["exec"]["command"][1]) for each in spec["containers"]]
    graceful_s = int(DOCKERFILE["CMD"][0][DOCKERFILE["CMD"][0].index("--graceful-timeout") + 1])
    assert pause + graceful_s + 5 <= spec["terminationGracePeriodSeconds"]
    assert "RAY" not in json.dumps(spec)


def test_the_image_of_the_engine_has_the_ray_of_the_cluster() -> None:
    """And an extra for `serve-bridge start`, whose instance has no proxy."""
    steps = instructions(files_of("kubernetes", "dockerfile")["engine.Dockerfile"])
    version = named("RayCluster", "shop")["spec"]["rayVersion"]
    assert steps["FROM"] == [f"rayproject/ray:{version}-py313"]
    assert f"\nray=={version}" in (ROOT / "constraints.txt").read_text()
    assert shlex.split(steps["RUN"][0]) == ["pip", "install", "--no-cache-dir", "serve-bridge[ray,cli]"]
    (start,) = [command for command in COMMANDS if "--advertise" in command]
    assert "--location NoServer" in start


# the container


def instructions(dockerfile: str) -> dict[str, list[Any]]:
    """Return the arguments of each instruction."""
    found: dict[str, list[Any]] = {}
    for line in dockerfile.splitlines()[1:]:
        instruction, _, rest = line.partition(" ")
        found.setdefault(instruction, []).append(json.loads(rest) if rest.startswith("[") else rest)
    return found


DOCKERFILE = instructions(files_of("containers", "dockerfile")["Dockerfile"])


def test_the_image_installs_extras_that_exist() -> None:
    """And not Ray."""
    words = shlex.split(DOCKERFILE["RUN"][0])
    assert words[:3] == ["pip", "install", "--no-cache-dir"]
    assert words[3:] == ["serve-bridge[flask]", "gunicorn"]
    assert "\nflask = " in (ROOT / "pyproject.toml").read_text()


def test_the_command_of_the_image_serves(tmp_path: Path) -> None:
    """With web.py, the variables of the file, and the address; the port and the place of the key are the test's."""
    keys, work = tmp_path / "keys", tmp_path / "web"
    keys.mkdir()
    work.mkdir()
    assert DOCKERFILE["COPY"] == ["web.py /srv/web/"]
    (work / "web.py").write_text(files_of("containers", "python")["web.py"])
    variable, _, path = DOCKERFILE["ENV"][0].partition("=")
    port = free_port()
    with open_shop(keys) as shop:
        command = [word.replace("0.0.0.0:8080", f"127.0.0.1:{port}") for word in DOCKERFILE["CMD"][0]]
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / command[0]), "--no-control-socket", *command[1:]],
            cwd=work,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "XDG_RUNTIME_DIR": str(tmp_path),
                "SERVE_BRIDGE_ADDRESS": f"serve-bridge://127.0.0.1:{port_of(shop.client)}/shop",
                variable: str(keys / Path(path).name),
            },
        )
        try:
            url = f"http://127.0.0.1:{port}"

            def serves() -> bool:
                try:
                    return httpx.get(f"{url}/healthz", timeout=30).text == "ok"
                except httpx.TransportError:
                    return False

            wait_until(serves)
            assert httpx.post(f"{url}/mood", json={"text": "good"}, timeout=30).json() == {"happy": 4}
        finally:
            process.terminate()
            assert process.wait(60) == 0
