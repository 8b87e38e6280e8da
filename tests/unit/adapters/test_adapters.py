"""How an adapter is found by its name, and what is said of one that is not there or cannot be loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_bridge.adapters import Adapter, installed_adapters, load_adapter
from serve_bridge.errors import ConfigError
from serve_bridge.testing.contract import AdapterContract, FrontContract
from tests.unit.test_architecture import HEAVY, modules_after

OURS = {"asgi", "django", "django-asgi", "flask", "starlette", "wsgi"}
PACKAGE = """
Metadata-Version: 2.1
Name: others-{name}
Version: 1
"""


class Complete:
    """An adapter of no framework."""

    name = "complete"
    interface = "wsgi"

    def application(self, bridge: object, routes: object) -> object:
        """Return no application."""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def install(packages: Path, name: str, code: str, *, adapter: str | None = None) -> None:
    """Install a package with one adapter."""
    information = packages / f"others_{name}-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(PACKAGE.format(name=name).lstrip())
    (information / "entry_points.txt").write_text(
        f"[serve_bridge.adapters]\n{adapter or name} = others_{name}:ADAPTER\n"
    )
    (packages / f"others_{name}.py").write_text(code)


def test_ours_are_installed() -> None:
    """As those of others are: by their entry points."""
    assert set(installed_adapters()) >= OURS


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_of_ours_is_an_adapter_of_its_name(name: str) -> None:
    """With an interface."""
    adapter = load_adapter(name)
    assert isinstance(adapter, Adapter)
    assert (adapter.name, adapter.interface in ("asgi", "wsgi")) == (name, True)


def test_an_adapter_of_somebody_else_is_found(packages: Path) -> None:
    """By the entry point of its package."""
    install(packages, "fine", "from tests.unit.adapters.test_adapters import Complete\nADAPTER = Complete()\n")
    assert load_adapter("fine").name == "complete"


def test_one_that_is_not_there_is_an_error_that_lists_the_others() -> None:
    """With the nearest, and what to install."""
    with pytest.raises(
        ConfigError, match=r"no adapter 'flsk' .*did you mean 'flask'\?; installed: .*starlette.*install"
    ):
        load_adapter("flsk")


def test_one_without_its_framework_says_what_to_install(packages: Path) -> None:
    """And harms no other."""
    install(packages, "frameless", "import a_framework_that_is_not_here\n")
    with pytest.raises(
        ConfigError, match=r"'frameless' .*others-frameless.* pip install 'a_framework_that_is_not_here'"
    ):
        load_adapter("frameless")
    assert load_adapter("asgi").name == "asgi"


def test_one_that_raises_says_what(packages: Path) -> None:
    """Also what its module raises that is no ImportError."""
    install(packages, "raising", "raise RuntimeError('not today')\n")
    with pytest.raises(ConfigError, match=r"cannot be loaded: RuntimeError: not today"):
        load_adapter("raising")


def test_one_that_is_no_adapter_says_what_it_lacks(packages: Path) -> None:
    """Before anybody uses it."""
    install(packages, "empty", "ADAPTER = 5\n")
    with pytest.raises(ConfigError, match=r"is not an Adapter: it needs name, interface and application"):
        load_adapter("empty")


def test_two_of_one_name_are_an_error(packages: Path) -> None:
    """Which of them was meant is not guessed."""
    install(packages, "first", "ADAPTER = 5\n", adapter="twice")
    install(packages, "second", "ADAPTER = 5\n", adapter="twice")
    with pytest.raises(
        ConfigError, match=r"two adapters are called 'twice': .*others-first.*others-second|second.*first"
    ):
        load_adapter("twice")


@pytest.mark.parametrize("module", ["adapters", "testing", "testing.plugin", "testing.subject"])
def test_no_framework_is_loaded_before_it_is_asked_for(module: str) -> None:
    """Nor a server, nor Ray: pytest loads the plug-in in every run."""
    loaded = modules_after(f"import serve_bridge.{module}")
    assert loaded.isdisjoint([*HEAVY, "starlette.applications", "httpx", "h11", "serve_bridge.testing.contract"])


# the contract itself


def test_a_wsgi_adapter_has_no_test_of_a_websocket() -> None:
    """Not skipped, not collected."""

    class Contract(AdapterContract):
        adapter = load_adapter("wsgi")

    assert Contract.test_a_websocket_knows_its_request is None
    assert AdapterContract.test_a_websocket_knows_its_request is not None


def test_what_a_front_lacks_is_not_collected() -> None:
    """If it says why."""

    class Contract(FrontContract):
        lacks = {"early answers": "it buffers"}  # noqa: RUF012

    assert Contract.test_an_answer_may_come_before_the_body is None
    assert Contract.test_a_body_arrives is not None


def test_what_nobody_needs_cannot_be_lacking() -> None:
    """A misspelt word must not look like a front that can do everything."""
    with pytest.raises(ValueError, match=r"'websocket' is not an ability; known: .*websockets"):
        type("Contract", (FrontContract,), {"lacks": {"websocket": "?"}})
