"""`make demo`: two web apps under gunicorn, one model on Ray, and a second version of the model under load.

1. The demo starts Ray, an instance, and the first version of the model with two replicas.
2. It starts the Flask and the Django example with two workers each. These processes do not import Ray.
3. It sends images outside the training data, as PNG uploads through Flask and as JSON through Django.
4. It starts the second version, and gives it half of the traffic, then all of it. It sends the images again each time.

At its end the demo stops every process and deletes every file of its own. `make demo KEEP=1` keeps everything running
until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT, SIGTERM
from statistics import quantiles
from typing import Any, Final

import requests
from requests.cookies import RequestsCookieJar
from rich.console import Console
from rich.table import Table

import serve_bridge as serve
from examples.digits import as_png, held_out
from examples.django_app.digits.backends import V1, V2, First, Guesses, Second

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = 300
CALLERS: Final = 8
WORKERS: Final = 2
START_S: Final = 30.0
STOP_S: Final = 10.0
EXPECTED: Final = {V1: 0.7, V2: 0.95}
"""Lower limit for the share of images that each version reads correctly."""

Post = Callable[[requests.Session, list[list[float]]], requests.Response]


class DemoFailed(Exception):
    """An answer was wrong. The message tells which one."""


@dataclass
class Tally:
    """The answers through one app in one round."""

    app: str
    right: int = 0
    seconds: list[float] = field(default_factory=list)
    replicas: Counter[str] = field(default_factory=Counter)
    names: dict[str, set[str]] = field(default_factory=dict)

    def add(self, answer: dict[str, Any], label: int, seconds: float) -> None:
        """Count one answer."""
        self.right += answer["digit"] == label
        self.seconds.append(seconds)
        self.replicas[answer["replica"]] += 1
        self.names.setdefault(answer["backend"], set()).add(answer["replica"])

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / len(self.seconds)

    def row(self, traffic: str) -> tuple[str, ...]:
        """Return the row of the table."""
        cuts = quantiles(self.seconds, n=100)
        figures = f"{self.accuracy:.1%}", f"{cuts[49] * 1e3:.1f}", f"{cuts[98] * 1e3:.1f}"
        replicas = "\n".join(
            f"{short(backend)}: {' + '.join(str(self.replicas[name]) for name in sorted(names))}"
            for backend, names in sorted(self.names.items())
        )
        return (traffic, self.app, str(len(self.seconds)), *figures, replicas)


def short(backend: str) -> str:
    """Return the version in the name of a backend."""
    return backend.partition(":")[2]


# Processes


@contextlib.contextmanager
def ray_cluster(directory: Path) -> Iterator[None]:
    """A Ray cluster for the demo alone, with its files in *directory*."""
    # A token for this cluster alone. Without it, Ray stores a token in the home directory.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    import ray  # late, because Ray reads the environment at import

    before = signal.getsignal(SIGTERM)
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _temp_dir=str(directory / "ray"),
    )
    signal.signal(SIGTERM, before)  # Ray replaces the handler
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def instance() -> Iterator[serve.Client]:
    """An instance with the first version of the model."""
    client = serve.start(name="demo", http_options={"port": 0})
    try:
        serve.deploy(First, Guesses, client=client)
        yield client
    finally:
        client.shutdown()


@contextlib.contextmanager
def web_app(application: str, address: str) -> Iterator[str]:
    """A web app under gunicorn; yields its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        descriptor = listener.fileno()
        options = ["--bind", f"fd://{descriptor}", "--workers", str(WORKERS), "--log-level", "warning"]
        with contextlib.ExitStack() as stack:
            with uninterrupted():
                process = subprocess.Popen(
                    [sys.executable, "-m", "gunicorn", *options, "--no-control-socket", application],
                    cwd=ROOT,
                    env={**os.environ, "SERVE_BRIDGE_ADDRESS": address},
                    pass_fds=[descriptor],
                    start_new_session=True,  # Ctrl-C reaches only the demo, which then stops this process
                )
                stack.callback(stop, process)
            listener.close()
            wait_for(url, process)
            yield url


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM until the new process is registered for its stop."""
    held: list[int] = []
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in held:
            signal.raise_signal(caught)


def prepare_django(database: Path) -> str:
    """Create the Django app's database, and return the password of its users."""
    password = secrets.token_urlsafe(9)
    os.environ["DJANGO_DATABASE"] = str(database)
    command = [sys.executable, "-m", "examples.django_app.manage", "prepare", "--password", password]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return password


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until *url* answers.

    Raises:
        DemoFailed: *url* does not answer in time, or its process has ended.
    """
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(requests.RequestException):
            requests.get(url, timeout=START_S)
            return
    raise DemoFailed(f"{process.args!r} does not answer")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a web server and its workers."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# Requests


def upload_to(url: str) -> Post:
    """Return a function that sends an image as a PNG file."""

    def post(session: requests.Session, pixels: list[list[float]]) -> requests.Response:
        return session.post(f"{url}/api/digits", files={"image": ("digit.png", as_png(pixels))}, timeout=START_S)

    return post


def json_to(url: str, cookies: RequestsCookieJar) -> Post:
    """Return a function that sends an image as JSON, with the cookies of a login and the CSRF token of Django."""
    headers = {"x-csrftoken": cookies["csrftoken"] or ""}

    def post(session: requests.Session, pixels: list[list[float]]) -> requests.Response:
        return session.post(
            f"{url}/api/digits/", json={"pixels": pixels}, headers=headers, cookies=cookies, timeout=START_S
        )

    return post


def log_in(url: str, password: str) -> RequestsCookieJar:
    """Log in to the Django app like a browser, and return the cookies.

    Raises:
        DemoFailed: The app refuses the login.
    """
    with requests.Session() as session:
        session.trust_env = False
        page = f"{url}/accounts/login/"
        session.get(page, timeout=START_S)
        sent = {"username": "ada", "password": password, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        answer = session.post(page, data=sent, timeout=START_S)
        if "sessionid" not in session.cookies:
            raise DemoFailed(f"the login answered {answer.status_code}")
        return session.cookies


def send_all(app: str, post: Post) -> Tally:
    """Send the held-out images from several concurrent callers.

    Raises:
        DemoFailed: The status of an answer is not 200.
    """
    tally = Tally(app)

    def send(share: list[tuple[list[list[float]], int]]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for pixels, label in share:
                began = time.perf_counter()
                answer = post(session, pixels)
                seconds = time.perf_counter() - began
                if answer.status_code != 200:
                    raise DemoFailed(f"{app} answered {answer.status_code}: {answer.text[:200]}")
                tally.add(answer.json(), label, seconds)

    images = held_out(IMAGES)
    with ThreadPoolExecutor(CALLERS) as callers:
        list(callers.map(send, [images[start::CALLERS] for start in range(CALLERS)]))
    return tally


def check_page(url: str) -> None:
    """Upload an image like a browser.

    Raises:
        DemoFailed: The page shows no digit.
    """
    pixels, _ = held_out(1)[0]
    page = requests.post(url, files={"image": ("digit.png", as_png(pixels))}, timeout=START_S)
    if page.status_code != 200 or "It is a <strong>" not in page.text:
        raise DemoFailed(f"the upload page answered {page.status_code} without a digit")


def check(round_: list[Tally], weights: dict[str, float]) -> None:
    """Compare the answers of a round with the traffic policy.

    Raises:
        DemoFailed: The shares, the accuracy or the number of replicas is wrong.
    """
    total = sum(len(tally.seconds) for tally in round_)
    replicas = sum((tally.replicas for tally in round_), Counter())
    for backend, weight in weights.items():
        names = set().union(*(tally.names.get(backend, set()) for tally in round_))
        answers = sum(replicas[name] for name in names)
        if abs(answers / total - weight) > 0.1:  # 4 sigma of 600 requests are 0.08
            raise DemoFailed(f"{backend} answered {answers} of {total}, its weight is {weight}")
    wanted = sum(EXPECTED[backend] * weight for backend, weight in weights.items())
    accuracy = sum(tally.right for tally in round_) / total
    if accuracy < wanted:
        raise DemoFailed(f"{accuracy:.1%} right; {weights} should get {wanted:.1%}")
    if len(replicas) != 2 * sum(weight > 0 for weight in weights.values()):
        raise DemoFailed(f"the number of replicas with answers is wrong: {dict(replicas)}")


# The sequence


def play(client: serve.Client, apps: dict[str, Post], console: Console) -> None:
    """Move the traffic from the first version to the second, and print the figures of both apps.

    Raises:
        DemoFailed: The answers of a round are wrong.
    """
    table = Table("traffic", "through", "images", "right", "p50 ms", "p99 ms", "answered by")
    for weights in ({V1: 1.0}, {V1: 0.5, V2: 0.5}, {V2: 1.0}):
        if V2 in weights and V2 not in client.list_backends():
            console.print("The second version starts beside the first ...")
            serve.deploy(Second, client=client)
        client.set_traffic("digits", weights)
        round_ = [send_all(app, post) for app, post in apps.items()]
        check(round_, weights)
        for tally in round_:
            table.add_row(*tally.row("\n".join(f"{weight:.0%} {short(name)}" for name, weight in weights.items())))
        table.add_section()
    client.delete_backend(V1)
    console.print(table)


def keep_running(client: serve.Client, flask: str, django: str, password: str, console: Console) -> None:
    """Print all addresses, and wait for Ctrl-C."""
    console.print(f"Flask   {flask}/  (upload a PNG)\nDjango  {django}/  (log in as grace, password {password})")
    console.print(f"proxy   {client.http_urls[0]}/digits")
    console.print(f"SERVE_BRIDGE_ADDRESS={client.address}\nCtrl-C ends everything.")
    while True:
        time.sleep(3600)


def run(console: Console) -> None:
    """Start everything, run the sequence, and stop everything."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sb-")))
        os.environ["XDG_RUNTIME_DIR"] = str(directory)
        password = prepare_django(directory / "db.sqlite3")
        console.print("Ray and the first version start ...")
        stack.enter_context(ray_cluster(directory))
        client = stack.enter_context(instance())
        console.print(f"Flask and Django start, {WORKERS} gunicorn workers each ...")
        flask = stack.enter_context(web_app("examples.flask_app:create_app()", client.address))
        django = stack.enter_context(web_app("examples.django_app.wsgi:application", client.address))
        check_page(flask)
        cookies = log_in(django, password)
        play(client, {"Flask, PNG": upload_to(flask), "Django, JSON": json_to(django, cookies)}, console)
        if os.environ.get("KEEP"):
            keep_running(client, flask, django, password, console)


def main() -> int:
    """Run the demo; return the exit code."""
    console = Console(highlight=False)
    began = time.monotonic()
    signal.signal(SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
    signal.signal(SIGTERM, lambda *_: sys.exit(143))  # as with Ctrl-C, everything is stopped
    try:
        run(console)
    except DemoFailed as error:
        console.print(f"[bold red]failed:[/] {error}")
        return 1
    except KeyboardInterrupt:
        console.print("ended by Ctrl-C; nothing is left running")
        return 0 if os.environ.get("KEEP") else 130
    console.print(f"done in {time.monotonic() - began:.0f} s; nothing is left running")
    return 0


if __name__ == "__main__":
    sys.exit(main())
