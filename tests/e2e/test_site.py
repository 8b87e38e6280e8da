"""The documentation site as a reader sees it: built as `make docs` builds it, and opened in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import griffe
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

import serve_bridge as serve
import serve_bridge.adapters
import serve_bridge.testing
from tests.support.programs import LIMIT_S, ROOT
from tests.support.waiting import wait_until, wait_until_equal

pytestmark = pytest.mark.e2e

SOURCES = ("CHANGELOG.md", "docs", "serve_bridge", "zensical.toml")
DOCS = ROOT / "docs"
_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
_LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|srcset|data)=["']?(?:https?:)?//"""
    r"""|<link\b[^>]*\shref=["']?(?:https?:)?//"""
    r"""|(?:@import\s+|url\()["']?(?:https?:)?//"""
)
"""Markup or a style rule by which a page loads something from another host. A link that a reader follows is not one."""
POLICY = "default-src 'self' data: blob: 'unsafe-inline'"
"""Makes the browser refuse what comes from another host, and complain in its console."""


def pages_of(nav: list[Any]) -> Iterator[str]:
    """Yield the pages that a part of the navigation names."""
    for entry in nav:
        (target,) = entry.values()
        if isinstance(target, str):
            yield target
        else:
            yield from pages_of(target)


NAV = list(pages_of(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]))
REFERENCE = [page for page in NAV if page.startswith("reference/")]


def title_of(page: str) -> str:
    """Return the first heading of a page of docs/."""
    source = ROOT / "CHANGELOG.md" if page == "changelog.md" else DOCS / page
    return source.read_text().partition("\n")[0].removeprefix("# ")


class _Handler(SimpleHTTPRequestHandler):
    """Serves the site's files, with the policy."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site from a copy of its sources; return its folder."""
    project = tmp_path_factory.mktemp("site")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, project)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    built = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=LIMIT_S)
    assert built.returncode == 0, built.stdout + built.stderr
    return project / "site"


@pytest.fixture(scope="module")
def url(site: Path) -> Iterator[str]:
    """Serve the site on a free port; return its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def package() -> griffe.Object | griffe.Alias:
    """Read the package's names and docstrings from its sources, so no framework has to be set up."""
    return griffe.load("serve_bridge", search_paths=[str(ROOT)], resolve_aliases=True)


@pytest.fixture
def browser(chromium: Chrome, tmp_path: Path) -> Iterator[Chrome]:
    """The browser; a screenshot of the last page stays in the test's folder."""
    chromium.set_window_size(1280, 1000)
    yield chromium
    chromium.save_screenshot(str(tmp_path / "page.png"))


def complaints(browser: Chrome) -> list[dict[str, Any]]:
    """Return what the browser has complained about since the last call."""
    found: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's
    return found


def address_of(url: str, page: str) -> str:
    """Return where the site has a page of docs/."""
    return f"{url}/{page.removesuffix('.md')}.html"


def test_the_navigation_names_every_page() -> None:
    """A page outside of the navigation would be found by search only."""
    assert sorted(NAV) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", NAV)
def test_a_page_is_shown(page: str, url: str, browser: Chrome) -> None:
    """The page has its title and its pictures, nothing is loaded from another host, and the console stays empty."""
    browser.get(address_of(url, page))
    assert browser.find_element(By.TAG_NAME, "h1").text.removesuffix("¶") == title_of(page).replace("`", "")
    broken = "return [...document.images].filter((e) => !e.complete || !e.naturalWidth).map((e) => e.src)"
    loaded = "return performance.getEntriesByType('resource').map((e) => e.name)"
    assert browser.execute_script(broken) == []
    assert [name for name in browser.execute_script(loaded) if not name.startswith((f"{url}/", "data:"))] == []
    assert complaints(browser) == []


@pytest.mark.parametrize("page", NAV)
def test_a_page_fits_a_phone(page: str, url: str, browser: Chrome) -> None:
    """Wide tables and code scroll by themselves, not with the whole page."""
    browser.set_window_size(500, 900)  # the smallest that Chromium has
    browser.get(address_of(url, page))
    assert browser.execute_script("return document.body.scrollWidth <= document.documentElement.clientWidth")


def test_no_file_loads_anything_from_another_host(site: Path) -> None:
    """Neither do the pages that this module does not open, such as that of an error 404."""
    files = [file for file in site.rglob("*") if file.suffix in (".html", ".css")]
    assert len(files) > len(NAV)
    found = [(str(file.relative_to(site)), match[0]) for file in files for match in _LOADS.finditer(file.read_text())]
    assert found == []


def test_the_reference_has_every_public_name_once() -> None:
    """The names of the package, those for adapters and those for tests."""
    modules = (serve, serve_bridge.adapters, serve_bridge.testing)
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    listed = [name for page in REFERENCE for name in _DIRECTIVE.findall((DOCS / page).read_text())]
    assert len(listed) == len(set(listed))
    assert public - set(listed) == set()


@pytest.mark.parametrize("page", REFERENCE)
def test_the_reference_says_what_the_docstrings_say(
    page: str, package: griffe.Object | griffe.Alias, url: str, browser: Chrome
) -> None:
    """Each name has its heading, and the first line of its docstring below it."""
    browser.get(address_of(url, page))
    wrong = []
    for name in _DIRECTIVE.findall((DOCS / page).read_text()):
        shown = browser.execute_script(
            "return document.getElementById(arguments[0])?.closest('.doc-object')?.innerText ?? ''", name
        )
        line = package[name.removeprefix("serve_bridge.")].docstring.value.partition("\n")[0]
        if name.rpartition(".")[2] not in shown or plain(line) not in plain(shown):
            wrong.append(name)
    assert wrong == []


def plain(text: str) -> str:
    """Return *text* without markup."""
    return re.sub(r"[*`\s]|:\w+:", "", text)


def test_the_reference_shows_signatures(url: str, browser: Chrome) -> None:
    """A function is shown with its arguments, their types and defaults."""
    browser.get(address_of(url, "reference/functions.md"))
    shown = browser.find_element(By.ID, "serve_bridge.create_backend").find_element(By.XPATH, "following::pre[1]").text
    assert shown.startswith("create_backend(")
    for argument in ("name: str", "config: BackendConfig |", "**init_kwargs"):
        assert argument in shown


def test_a_reader_finds_a_page_by_a_word(url: str, browser: Chrome) -> None:
    """The search runs in the browser, over an index of the site itself."""
    browser.get(address_of(url, "index.md"))
    browser.find_element(By.CLASS_NAME, "md-search__button").click()
    focused = "return document.activeElement?.shadowRoot?.activeElement?.tagName"
    wait_until_equal(lambda: browser.execute_script(focused), "INPUT")
    browser.switch_to.active_element.send_keys("shadow_traffic")
    found = """
    const dialogs = [...document.querySelectorAll("*")].map((e) => e.shadowRoot?.querySelector("dialog"));
    const options = dialogs.flatMap((e) => (e ? [...e.querySelectorAll("a[role=option]")] : []));
    return options.map((e) => e.getAttribute("href"));
    """
    first = wait_until(lambda: next(iter(browser.execute_script(found)), None), LIMIT_S)
    assert str(first).endswith("#serve_bridge.shadow_traffic")
    assert complaints(browser) == []
