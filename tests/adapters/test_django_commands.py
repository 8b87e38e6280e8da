"""Django: `manage.py serve_bridge`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.decorators import login_required
from django.core.management import CommandError, call_command
from django.test import override_settings
from django.urls import include, path
from django.views.decorators.http import require_POST

import serve_bridge as serve
from serve_bridge.adapters.django import abridge_view, bridge_view
from tests.adapters.support.django_site import MIDDLEWARE, site, state

BACKENDS = """
import serve_bridge as serve

@serve.backend("shop-prices", route="/prices")
def prices(request):
    return {"price": 5}

def undeclared(request):
    return None
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed app with a backends.py, and one without."""
    for name in ("sb_shop", "sb_blog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "sb_shop" / "backends.py").write_text(BACKENDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    installed = [*(config.name for config in apps.get_app_configs()), "sb_shop", "sb_blog", "django.contrib.auth"]
    with override_settings(INSTALLED_APPS=[*installed, "django.contrib.contenttypes"]):
        yield tmp_path / "sb_shop" / "backends.py"
    for name in [name for name in sys.modules if name.partition(".")[0] in ("sb_shop", "sb_blog")]:
        del sys.modules[name]


@pytest.fixture
def own() -> Iterator[serve.Client]:
    """An instance that a test may change."""
    client = serve.start(runtime="local", name="django-commands", http_options={"location": "NoServer"})
    with site(client):
        yield client
    client.shutdown()


def ran(*words: str) -> str:
    """Run the command; return what it prints."""
    out = StringIO()
    call_command("serve_bridge", *words, stdout=out)
    return out.getvalue()


def as_json(*words: str) -> Any:
    """Run the command for a program."""
    return json.loads(ran(*words, "--format", "json"))


def test_deploy_brings_up_what_the_installed_apps_declare(own: serve.Client, shop: Path) -> None:
    """In their backends.py; a second time there is nothing to do."""
    changes = as_json("deploy")["changes"]
    assert [(change["kind"], change["name"]) for change in changes] == [
        ("create backend", "shop-prices"),
        ("create endpoint", "shop-prices"),
    ]
    assert "nothing to change" in ran("deploy")
    assert as_json("call", "shop-prices") == {"price": 5}


def test_the_owner_is_the_top_package_of_the_settings(own: serve.Client, shop: Path) -> None:
    """Unless another is named; names that were made by hand need --take-over."""
    with override_settings(SETTINGS_MODULE="market.settings"):
        ran("deploy")
    assert own.status()["backends"]["shop-prices"]["owner"] == "market"
    with pytest.raises(CommandError, match=r"project 'shop' cannot deploy .*belongs to project 'market'"):
        ran("deploy", "--project", "shop")
    ran("deploy", "--project", "shop", "--take-over")
    assert own.status()["backends"]["shop-prices"]["owner"] == "shop"


def test_prune_without_a_terminal_needs_yes(own: serve.Client, shop: Path) -> None:
    """It lists what it would delete."""
    own.deploy(serve.backend("old")(lambda request: None), project="market")
    with pytest.raises(CommandError, match=r"--yes.*delete endpoint old, delete backend old"):
        ran("deploy", "--project", "market", "--prune")
    assert "old" in own.list_backends()
    ran("deploy", "--project", "market", "--prune", "--yes")
    assert "old" not in own.list_backends()


def test_a_dry_run_changes_nothing(own: serve.Client, shop: Path) -> None:
    """It only tells."""
    assert "create backend" in ran("deploy", "--dry-run")
    assert "shop-prices" not in own.list_endpoints()


def test_declared_backends_run_in_the_projects_surroundings(shop: Path) -> None:
    """Unless they name others."""
    from serve_bridge.adapters.django.declarations import declared
    from serve_bridge.adapters.django.surroundings import PATH

    (declaration,) = declared()
    assert declaration.surroundings is not None
    assert declaration.surroundings.path == PATH


def test_nothing_declared_is_an_error(own: serve.Client) -> None:
    """It says where declarations are looked for."""
    with pytest.raises(CommandError, match=r"no installed app has a backends\.py"):
        ran("deploy")


def test_status_shows_the_instance(engine: serve.Client) -> None:
    """For people and for programs."""
    with site(engine):
        assert "counter" in ran("status")
        assert as_json("status")["address"] == engine.address


def test_traffic_and_shadows_are_set(own: serve.Client) -> None:
    """As operators do."""
    own.create_backend("state-2", state)
    assert as_json("traffic", "state", "state=0.5", "state-2=0.5")["state"]["traffic"] == {"state": 0.5, "state-2": 0.5}
    assert as_json("shadow", "size", "state-2", "0.1")["size"]["shadows"] == {"state-2": 0.1}
    assert "state-2" in ran("traffic")


def test_a_call_that_fails_is_one_line(engine: serve.Client) -> None:
    """No traceback, unless --traceback is given."""
    with site(engine), pytest.raises(CommandError, match="unknown"):
        ran("call", "unknown")
    with site(engine), pytest.raises(CommandError, match="secret"):
        ran("call", "failing")


def test_what_a_backend_says_reaches_no_terminal_raw(own: serve.Client) -> None:
    """Neither its value nor its error holds a control character."""

    def curse(request: serve.ServeRequest) -> str:
        if request.data:
            raise LookupError("\x1b[2J")
        return "\x1b[2J\x07"

    own.create_backend("curse", curse)
    own.create_endpoint("curse", backend="curse")
    assert ran("call", "curse") == "\\x1b[2J\\x07\n"
    with pytest.raises(CommandError, match=r"LookupError: \\x1b\[2J"):
        ran("call", "curse", "1")


def test_a_word_that_is_none_is_a_wrong_command(engine: serve.Client) -> None:
    """Exit code 2, where a failure is 1."""
    with site(engine), pytest.raises(CommandError, match="invalid choice"):
        ran("statsu")
    with site(engine), pytest.raises(CommandError, match="must be a number"):
        ran("shadow", "state", "state", "much")


def test_another_instance_can_be_named(engine: serve.Client, tmp_path: Path) -> None:
    """As it is for the settings."""
    with site(engine, SERVE_BRIDGE={"ADDRESS": str(tmp_path / "none")}):
        assert as_json("status", "--address", engine.address)["address"] == engine.address
        with pytest.raises(CommandError, match="none"):
            ran("status")


def test_check_passes_when_all_is_there(own: serve.Client, shop: Path) -> None:
    """The setting is right, what is declared runs, and the routes lead to endpoints."""
    ran("deploy")
    urls: Any = (path("prices/", bridge_view("shop-prices")),)
    with site(own, urls=urls, SERVE_BRIDGE={"ROUTES": {"prices/": "shop-prices"}}):
        assert as_json("check")["ok"] is True


def test_check_names_what_is_missing(own: serve.Client, shop: Path) -> None:
    """It fails, and still prints all of it."""
    out = StringIO()
    with site(own, SERVE_BRIDGE={"ROUTES": {"prices/": "prices"}}), pytest.raises(CommandError):
        call_command("serve_bridge", "check", stdout=out)
    assert "ROUTES['prices/']: no endpoint 'prices'" in out.getvalue()
    assert "to deploy: create backend shop-prices" in out.getvalue()


def test_check_names_the_endpoints_that_views_lack(own: serve.Client) -> None:
    """Of every forwarded view in the URLs: included, decorated, asynchronous."""
    deep = [path("deep/", login_required(require_POST(abridge_view("modo"))))]
    urls: Any = (path("state/", bridge_view("state")), path("ml/<int:x>/", include((deep, "ml"))))
    out = StringIO()
    with site(own, urls=urls), pytest.raises(CommandError):
        call_command("serve_bridge", "check", "--format", "json", stdout=out)
    assert json.loads(out.getvalue())["missing"] == {"ml/<int:x>/deep/": "modo"}


def test_check_runs_the_system_checks(own: serve.Client) -> None:
    """Before it looks for an instance."""
    wrong = override_settings(SERVE_BRIDGE={"ADRESS": 1}, MIDDLEWARE=[MIDDLEWARE])
    with wrong, pytest.raises(CommandError, match="did you mean 'ADDRESS'"):
        ran("check")


def test_no_instance_is_there_with_the_local_runtime() -> None:
    """It is inside the web process."""
    with override_settings(SERVE_BRIDGE={"RUNTIME": "local"}), pytest.raises(CommandError, match="RUNTIME is 'local'"):
        ran("status")
