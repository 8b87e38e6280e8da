"""What holds for the package as a whole: public names, and what an import brings along.

That imports go down the layers only is held by import-linter in `make check`.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import serve_bridge
from tests.support.tiers import COVERED_BY

ROOT = Path(__file__).parents[2]
HEAVY = ["ray", "django", "flask", "uvicorn", "granian", "httptools", "click", "rich", "numpy", "pydantic"]
APPLICATION = ["starlette.applications", "starlette.routing", "starlette.middleware"]
PUBLIC = {
    *("BackendConfig", "BackendError", "BackendNotFound", "BackendOverloaded", "BackendStartError"),
    *("Client", "ConfigError", "DeadlineExceeded", "EndpointNotFound", "HTTPOptions", "InstanceClosed"),
    *("Location", "MethodNotExposed", "NotAllowed", "NotConnected", "ReplicaDied", "SerializationError"),
    *("ServeBridgeError", "ServeRequest"),
    *("accept_batch", "batch", "connect", "create_backend", "create_endpoint", "delete_backend"),
    *("delete_endpoint", "get_backend_config", "get_handle", "get_replica_context", "list_backends"),
    *("list_endpoints", "set_traffic", "shadow_traffic", "shutdown", "start", "time_left", "update_backend"),
    *("Deployment", "DeploymentError", "backend", "deploy", "endpoint", "status"),
    *("update_backend_config", "AsyncHandle", "AuthenticationError", "Handle", "ProtocolError", "ReplicaContext"),
    *("asgi_app", "handle", "wsgi_app", "request_id", "RequestIdFilter", "ControlPlaneLost"),
}


def printed(program: str) -> str:
    """Return what a program prints in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def modules_after(statement: str) -> set[str]:
    """Return the modules that are loaded after a statement."""
    return set(printed(f"{statement}\nimport sys\nprint(*sys.modules)").split())


def test_the_public_names_are_those_of_the_contract() -> None:
    """A name that is missing or too many is a promise broken or made by accident."""
    assert set(serve_bridge.__all__) - {"__version__"} == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_can_be_imported(name: str) -> None:
    """From the package itself."""
    assert getattr(serve_bridge, name) is not None


def test_what_is_loaded_late_is_listed_from_the_start() -> None:
    """An interpreter completes names by it."""
    assert set(printed("import serve_bridge\nprint(*dir(serve_bridge))").split()) >= PUBLIC


def test_importing_the_package_loads_neither_ray_nor_a_framework() -> None:
    """Whatever of it a web worker uses: it pays for nothing else."""
    assert modules_after("from serve_bridge import *").isdisjoint([*HEAVY, *APPLICATION])


def test_importing_the_package_starts_no_thread() -> None:
    """Threads do not survive the fork that many web servers do next."""
    program = "from serve_bridge import *\nimport threading\nprint(threading.active_count())"
    assert printed(program) == "1\n"


@pytest.mark.parametrize("module", ["asgi", "wsgi"])
def test_the_shared_adapters_load_no_framework(module: str) -> None:
    """They are written to the protocol, not to a framework."""
    assert modules_after(f"import serve_bridge.adapters.{module}").isdisjoint([*HEAVY, "starlette.applications"])


NOT_BEFORE_A_BRIDGE = (
    "client",
    "controller",
    "deployment",
    "http_server",
    "instance",
    "management",
    "proxy",
    "replica",
)
NOT_BEFORE_A_BRIDGE += ("request", "routing", "runtimes")

LOADED_NOWHERE = {
    **{f"adapters.{name}": NOT_BEFORE_A_BRIDGE for name in ("asgi", "django", "flask", "starlette", "wsgi")},
    "adapters.bridge.bridge": (
        *("controller", "deployment", "http_server", "proxy", "replica", "runtimes", "specs"),
        *("client.client", "management.management", "management.arguments"),
        *("config.backend_config", "config.http_options", "config.network_options"),
    ),
    "replica.replica": (
        *("client", "controller", "forwarding", "http_server", "proxy", "routing", "runtimes"),
        *("wire.caller_end", "wire.calls_made", "wire.dialling"),
    ),
    "runtimes.ray.controller_actor": ("client", "controller.controller", "proxy", "replica", "routing", "state"),
    "controller.controller": ("client", "forwarding", "proxy", "replica", "routing", "runtimes"),
    "proxy.proxy": ("client", "controller", "replica", "runtimes", "user_code"),
    "http_server.server": ("client", "controller", "forwarding", "instance", "proxy", "replica", "routing", "wire"),
}
"""For each process, by the module it begins with: the rooms and modules it never loads."""


@pytest.mark.parametrize(
    "module",
    [pytest.param(name, marks=[pytest.mark.ray] if name.startswith("runtimes.ray") else []) for name in LOADED_NOWHERE],
)
def test_a_process_loads_no_code_of_another(module: str) -> None:
    """Memory and start-up time of a process pay for its own part only."""
    loaded = modules_after(f"import serve_bridge.{module}")
    foreign = tuple(f"serve_bridge.{room}." for room in LOADED_NOWHERE[module])
    assert [each for each in sorted(loaded) if f"{each}.".startswith(foreign)] == []


MOST_LOADED = {"asgi": 40, "wsgi": 40, "django": 50, "flask": 50, "starlette": 50}
"""Upper limit for the modules of this package that the import of an adapter loads; a framework needs a few more."""


@pytest.mark.parametrize("adapter", MOST_LOADED)
def test_an_adapter_loads_few_modules_before_it_has_a_bridge(adapter: str) -> None:
    """The import of an adapter costs what its routes need, and no more."""
    loaded = modules_after(f"import serve_bridge.adapters.{adapter}")
    assert len([each for each in loaded if each.partition(".")[0] == "serve_bridge"]) <= MOST_LOADED[adapter]


def test_files_and_classes_are_short() -> None:
    """A reader opens few files in the root, short modules, and classes with one life."""
    sources = {path: path.read_text() for path in (ROOT / "serve_bridge").rglob("*.py")}
    lengths = {path: len(text.splitlines()) for path, text in sources.items()}
    classes = {
        f"{path.name}: {each.name}": (each.end_lineno or 0) - each.lineno + 1
        for path, text in sources.items()
        for each in ast.walk(ast.parse(text))
        if isinstance(each, ast.ClassDef)
    }
    assert len([path for path in (ROOT / "serve_bridge").iterdir() if path.is_file()]) <= 12
    assert statistics.median(lengths.values()) <= 125
    assert {str(path) for path, lines in lengths.items() if lines > 420} == set()
    assert {name for name, lines in classes.items() if lines > 300} == set()


def test_the_page_on_the_design_lists_the_layers() -> None:
    """The table of docs/design.md has the rows of the contract that import-linter checks, in its order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each["id"] == "layers"]
    page = (ROOT / "docs" / "design.md").read_text().partition("## Modules")[2].partition("\n## ")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in page.splitlines() if line.startswith("| `")]
    assert rows == [re.findall(r"\w+", layer) for layer in layers if layer != "(__main__)"]


def test_the_package_is_typed() -> None:
    """Type checkers read the annotations of the installed package."""
    assert (ROOT / "serve_bridge" / "py.typed").is_file()


def test_no_cache_counts_entries_alone() -> None:
    """A client or a backend chooses how long a name is, so `lru_cache` has no bound in bytes; `NameCache` has."""
    sources = (ROOT / "serve_bridge").rglob("*.py")
    assert [str(source) for source in sources if "lru_cache" in source.read_text()] == []


TESTS_OF_A_WING = {"adapters": ("tests/adapters",), "runtimes": ("tests/ray",)}
"""Folders with tests of a wing beside tests/unit/WING and tests/local/WING."""


def modules_of_the_package() -> Iterator[str]:
    """Yield the dotted names of all modules with code of their own."""
    for file in sorted((ROOT / "serve_bridge").rglob("*.py")):
        if file.name not in ("__init__.py", "__main__.py"):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts)


@cache
def text_about(wing: str | None) -> str:
    """Return the text of the test files of *wing*, or of the root."""
    if wing is None:
        files = [file for tier in ("unit", "local") for file in (ROOT / "tests" / tier).glob("test_*.py")]
    else:
        folders = (f"tests/unit/{wing}", f"tests/local/{wing}", *TESTS_OF_A_WING.get(wing, ()))
        files = [file for folder in folders for file in (ROOT / folder).rglob("test_*.py")]
    return "\n".join(file.read_text() for file in files)


def is_named(module: str) -> bool:
    """Whether a test of its wing names *module*."""
    parent, _, name = module.rpartition(".")
    wing = module.split(".")[1] if module.count(".") > 1 else None
    wanted = re.compile(rf"\b{re.escape(module)}\b|from {re.escape(parent)} import [^\n]*\b{name}\b")
    return wanted.search(text_about(wing)) is not None


def test_each_module_is_named_by_a_test_of_its_wing_or_by_a_tier() -> None:
    """A reader can tell what is tested through something larger from what is not tested."""
    listed = [module for modules in COVERED_BY.values() for module in modules]
    unnamed = [module for module in modules_of_the_package() if not is_named(module)]
    assert [module for module in unnamed if module not in listed] == [], (
        "name them in a test, or in tests/support/tiers.py"
    )
    assert [module for module in listed if module not in unnamed] == [], "tests/support/tiers.py need not list them"
    assert [tier for tier in COVERED_BY if not (ROOT / tier).is_dir()] == []
