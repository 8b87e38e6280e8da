"""The examples under real servers: Django and Flask under gunicorn, Starlette under uvicorn, used with a browser."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

import serve_bridge as serve
from examples.digits import held_out
from examples.django_app.digits.backends import V1, V2
from tests.e2e.support.web_servers import Command, WebServer
from tests.support.programs import LIMIT_S, ROOT
from tests.support.waiting import POLL_S, wait_until, wait_until_equal

SAMPLES = ROOT / "examples" / "static" / "samples"
PASSWORD = "only for this test"
GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--no-control-socket")
SERVERS = {
    "django": Command((*GUNICORN, "examples.django_app.wsgi:application")),
    "flask": Command((*GUNICORN, "examples.flask_app:create_app()")),
    "starlette": Command(("uvicorn", "--port", "{port}", "examples.starlette_app:app")),
}

LOADED = "return document.readyState === 'complete' ? performance.timeOrigin : null"
"""Gives a number that no other document has, once the document has been loaded."""

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Client]:
    """All backends of the examples, in this process."""
    client = serve.start(runtime="local", name="examples", http_options={"location": "NoServer"})
    serve.deploy("examples.django_app.digits.backends", "examples.starlette_app.backends", client=client)
    client.update_backend_config("guesses", {"user_config": {"pause_s": 0}})
    yield client
    client.shutdown()


@pytest.fixture(scope="module")
def environment(instance: serve.Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the servers are started with: where the instance is, and a database with its users."""
    database = tmp_path_factory.mktemp("django") / "db.sqlite3"
    environment = {"SERVE_BRIDGE_ADDRESS": instance.address, "DJANGO_DATABASE": str(database)}
    manage("prepare", "--password", PASSWORD, environment=environment)
    return environment


@pytest.fixture(scope="module")
def urls(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where each example answers."""
    logs = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(WebServer(command, logs / name, environment=environment))
            for name, command in SERVERS.items()
        }
        yield {name: str(server.get("/").url).rstrip("/") for name, server in servers.items()}


@pytest.fixture
def browser(chromium: Chrome) -> Chrome:
    """The browser, as nobody has used it yet."""
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})
    console(chromium)  # reading empties it
    return chromium


@pytest.fixture
def log_in(browser: Chrome, urls: dict[str, str]) -> Callable[[str], None]:
    """Logs a user in to the Django example, who is then on its first page."""

    def log_in(name: str, password: str = PASSWORD) -> None:
        browser.get(f"{urls['django']}/")
        field(browser, "Username").send_keys(name)
        field(browser, "Password").send_keys(password)
        press(browser, "Log in")

    return log_in


def manage(*arguments: str, environment: dict[str, str]) -> str:
    """Run a command of the Django example; return what it prints."""
    command = [sys.executable, "-W", "error", "-m", "examples.django_app.manage", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


# What a user does


def field(browser: Chrome, label: str) -> WebElement:
    """Return the field with *label*."""
    found = browser.find_element(By.XPATH, f"//label[starts-with(normalize-space(), '{label}')]")
    return browser.find_element(By.ID, str(found.get_attribute("for")))


def press(browser: Chrome, text: str) -> None:
    """Press the button with *text*, and wait for the page that it leads to."""
    left = browser.execute_script(LOADED)
    browser.find_element(By.XPATH, f"//button[normalize-space()='{text}'] | //input[@value='{text}']").click()
    # Between two documents, any command can fail.
    wait = WebDriverWait(browser, LIMIT_S, POLL_S, ignored_exceptions=[WebDriverException])
    wait.until(lambda _: browser.execute_script(LOADED) not in (left, None))


def text(browser: Chrome, selector: str = "main, #content") -> str:
    """Return what a part of the page says."""
    return browser.find_element(By.CSS_SELECTOR, selector).text


def upload(browser: Chrome, file: Path) -> None:
    """Choose a file and send it."""
    field(browser, "A picture of one digit").send_keys(str(file))
    press(browser, "Read it")


def console(browser: Chrome) -> list[dict[str, Any]]:
    """Return what the browser has complained about since this was last called."""
    complaints: list[dict[str, Any]] = browser.get_log("browser")  # type: ignore[no-untyped-call]  # selenium's
    return complaints


def shown_picture(browser: Chrome) -> int:
    """Return the width, in pixels of its own, of the picture that is shown beside a reading."""
    picture = browser.find_element(By.CSS_SELECTOR, ".reading img")
    return int(browser.execute_script("return arguments[0].naturalWidth", picture))


def split(browser: Chrome, url: str, percent: dict[str, int]) -> None:
    """Set the split of the endpoint `digits` on the staff's page."""
    browser.get(f"{url}/admin/traffic/")
    for version, share in percent.items():
        number = browser.find_element(By.CSS_SELECTOR, f"[aria-label='Percent for {version}']")
        number.clear()
        number.send_keys(str(share))
    press(browser, "Set the split")


def draw_one(browser: Chrome) -> None:
    """Draw the digit 1 on the grid of the Starlette example."""
    for row in range(1, 9):
        for column in (4, 5):
            label = f"Row {row}, column {column}, empty"
            browser.find_element(By.CSS_SELECTOR, f"[aria-label='{label}']").click()


# Django


def test_a_wrong_password_is_told(browser: Chrome, log_in: Callable[..., None]) -> None:
    """Every page asks who is there first."""
    log_in("ada", "wrong")
    assert "Please enter a correct username and password" in text(browser)


def test_a_user_uploads_a_digit_to_django(browser: Chrome, log_in: Callable[..., None]) -> None:
    """The page shows the picture, what it is, and the reading among the user's own."""
    log_in("ada")
    upload(browser, SAMPLES / "7.png")
    assert text(browser, ".reading strong") == "7"
    assert shown_picture(browser) == 8
    assert text(browser, "tbody td:nth-child(2)") == "7"


def test_a_form_with_a_wrong_token_is_refused(browser: Chrome, log_in: Callable[..., None]) -> None:
    """Nothing of it reaches a backend."""
    log_in("ada")
    tokens = "document.querySelectorAll('[name=csrfmiddlewaretoken]').forEach((field) => field.value = 'wrong')"
    browser.execute_script(tokens)
    upload(browser, SAMPLES / "7.png")
    assert "The form has expired" in text(browser)


def test_the_staff_changes_the_split(
    browser: Chrome, log_in: Callable[..., None], urls: dict[str, str], instance: serve.Client
) -> None:
    """The next upload is answered by the version that got all of the traffic."""
    log_in("grace")
    split(browser, urls["django"], {V1: 0, V2: 100})
    assert "the new split is in force" in text(browser, ".messagelist")
    browser.get(f"{urls['django']}/")
    upload(browser, SAMPLES / "3.png")
    assert f"{V2} is" in text(browser, ".reading")
    assert instance.list_endpoints()["digits"]["traffic"][V2] == 1


def test_a_user_may_not_see_the_traffic(browser: Chrome, log_in: Callable[..., None], urls: dict[str, str]) -> None:
    """The page is for the staff."""
    log_in("ada")
    browser.get(f"{urls['django']}/admin/traffic/")
    assert "not authorized to access this page" in text(browser)


def test_guesses_arrive_row_by_row(browser: Chrome, log_in: Callable[..., None], urls: dict[str, str]) -> None:
    """Through Django as server-sent events; the last one has seen the whole picture."""
    log_in("ada")
    browser.get(f"{urls['django']}/watch/4/")
    wait_until_equal(lambda: text(browser, "#state"), "All of it seen:")
    rows = [row.text.split()[0] for row in browser.find_elements(By.CSS_SELECTOR, "#guesses tr")]
    assert rows == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert text(browser, "#guess") == "4"


def test_the_tests_of_the_django_example_pass(environment: dict[str, str]) -> None:
    """They bring an instance of their own."""
    assert "OK" in manage("test", "examples.django_app", environment={**environment, "SERVE_BRIDGE_ADDRESS": ""})


@pytest.mark.parametrize("example", ["flask_app", "starlette_app"])
def test_the_tests_beside_an_example_pass(example: str, environment: dict[str, str]) -> None:
    """They bring an instance of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", f"examples/{example}"]
    alone = {**os.environ, **environment, "SERVE_BRIDGE_ADDRESS": ""}
    ended = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# Flask


def test_a_user_uploads_a_digit_to_flask(browser: Chrome, urls: dict[str, str]) -> None:
    """The page shows the picture and what it is."""
    browser.get(urls["flask"])
    upload(browser, SAMPLES / "7.png")
    assert text(browser, ".reading strong") == "7"
    assert shown_picture(browser) == 8


def test_a_file_that_is_no_picture_is_told(browser: Chrome, urls: dict[str, str], tmp_path: Path) -> None:
    """What the backend refused becomes a sentence of the page."""
    file = tmp_path / "digit.png"
    file.write_text("7")
    browser.get(urls["flask"])
    upload(browser, file)
    assert "not a picture that can be read" in text(browser)


# Starlette


def test_a_drawing_is_read_while_it_is_drawn(browser: Chrome, urls: dict[str, str]) -> None:
    """Each pixel goes over the WebSocket, each answer comes back over it."""
    browser.get(urls["starlette"])
    draw_one(browser)
    wait_until_equal(lambda: text(browser, "#digit"), "1")


LATE = """
    window.WebSocket = class extends WebSocket {
        constructor(...given) {
            super(...given);
            window.late = this;
            this.addEventListener("open", () => { window.connected = true; });
        }
        get readyState() { return window.late ? WebSocket.CONNECTING : super.readyState; }
    };
"""
"""Lets the WebSocket of a page look as if it were not open yet, while `late` has it."""
OPEN = "const socket = window.late; window.late = null; socket.dispatchEvent(new Event('open'));"


def test_what_was_drawn_before_the_websocket_was_open_is_read(browser: Chrome, urls: dict[str, str]) -> None:
    """A user may be faster than the handshake."""
    added = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": LATE})
    try:
        browser.get(urls["starlette"])
    finally:
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    draw_one(browser)
    wait_until(lambda: browser.execute_script("return window.connected"))
    browser.execute_script(OPEN)
    wait_until_equal(lambda: text(browser, "#digit"), "1")


def test_the_mount_answers_the_routes_of_the_instance(urls: dict[str, str]) -> None:
    """As they are, below its prefix."""
    pixels, digit = held_out(1)[0]
    answer = httpx.post(f"{urls['starlette']}/ml/digits", json={"pixels": pixels}, trust_env=False, timeout=30)
    assert answer.json()["digit"] == digit


# All of them


def flask_says(http: httpx.Client) -> int:
    """Post a picture to the Flask example."""
    answer = http.post("/api/digits", files={"image": (SAMPLES / "7.png").read_bytes()})
    return int(answer.json()["digit"])


def django_says(http: httpx.Client) -> int:
    """Log in to the Django example and post a picture."""
    http.get("/accounts/login/")
    login = {"username": "ada", "password": PASSWORD, "csrfmiddlewaretoken": http.cookies["csrftoken"]}
    http.post("/accounts/login/", data=login)
    token = {"x-csrftoken": http.cookies["csrftoken"]}
    answer = http.post("/api/digits/", files={"image": (SAMPLES / "7.png").read_bytes()}, headers=token)
    return int(answer.json()["digit"])


def starlette_says(http: httpx.Client) -> int:
    """Post a picture to the mount of the Starlette example."""
    answer = http.post("/ml/digits", files={"image": (SAMPLES / "7.png").read_bytes()})
    return int(answer.json()["digit"])


@pytest.mark.parametrize(
    ("example", "port", "says"),
    [
        ("django_app", "--noreload {port}", django_says),
        ("flask_app", "--port {port}", flask_says),
        ("starlette_app", "--port {port}", starlette_says),
    ],
    ids=["django", "flask", "starlette"],
)
def test_the_command_of_the_readme_is_enough(
    example: str, port: str, says: Callable[[httpx.Client], int], environment: dict[str, str], tmp_path: Path
) -> None:
    """It runs the app with its backends inside."""
    *before, last = (ROOT / "examples" / example / "README.md").read_text().split("```")[1].strip().splitlines()
    assert len(before) <= 1
    words = [word for word in f"{last} {port}".split() if word not in ("python", "-m")]
    assigned = dict(word.split("=") for word in words if "=" in word)
    command = Command(tuple(word for word in words if "=" not in word))
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="r-"))
        alone = {**environment, "SERVE_BRIDGE_ADDRESS": "", "XDG_RUNTIME_DIR": own, **assigned}
        server = stack.enter_context(WebServer(command, tmp_path / "log", environment=alone))
        url = str(server.get("/").url)
        http = stack.enter_context(httpx.Client(base_url=url, timeout=30, trust_env=False))
        assert says(http) == 7, server.log


PAGES = {
    "login": ("django", "/accounts/login/"),
    "read": ("django", "/"),
    "watch": ("django", "/watch/2/"),
    "traffic": ("django", "/admin/traffic/"),
    "upload": ("flask", "/"),
    "draw": ("starlette", "/"),
}
UNNAMED = """
const named = (e) => e.labels?.length || e.ariaLabel || e.textContent.trim() || e.value || e.alt;
const parts = document.querySelectorAll("input:not([type=hidden]), button, select, textarea, canvas, img");
return [...parts].filter((e) => !named(e)).map((e) => e.outerHTML);
"""
ELSEWHERE = """
return performance.getEntriesByType("resource").map((e) => e.name).filter((name) => !name.startsWith(location.origin));
"""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_for_everybody(page: str, browser: Chrome, urls: dict[str, str], log_in: Callable[..., None]) -> None:
    """It has a language, a title and a name for each field, takes nothing from elsewhere, and its console is empty."""
    app, path = PAGES[page]
    if app == "django" and page != "login":
        log_in("grace")
    browser.get(f"{urls[app]}{path}")
    facts: list[Any] = [browser.execute_script(script) for script in (UNNAMED, ELSEWHERE)]
    assert facts == [[], []]
    assert browser.execute_script("return document.documentElement.lang")
    assert browser.title
    assert console(browser) == []
