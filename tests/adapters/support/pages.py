"""A page of the documentation, followed as a reader would: files are written, commands are run, servers are asked.

Rule 1: a block of Python names its file in its first line. A second block of one file is put at its end, or replaces
        the file if its first line ends with ", changed".
Rule 2: what a page shows after a command is what the command prints; `...` stands for what differs from run to run.
Rule 3: what is not run says so, and why, in a comment above it that readers do not see.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import httpx

from tests.support.listening import free_port
from tests.support.programs import LIMIT_S, ROOT, kill_all
from tests.support.waiting import wait_until

PROXY = "127.0.0.1:8000"
"""Where pages have the proxy; a test has it on a free port."""
HAPPY = {"text": "a good day"}
_FENCED = re.compile(r"^(?:<!-- not run: ([^>]*) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SERVERS = {
    r"(?:\w+=\S+ )*gunicorn ": " --no-control-socket --bind 127.0.0.1:{port}",
    r"(?:\w+=\S+ )*(?:uvicorn|granian|flask .*\b(?:run|dev)\b)": " --port {port}",
    r"python manage.py (?:serve_bridge dev|runserver)": " 127.0.0.1:{port}",
}
_INSTANCE = """
import sys
import serve_bridge
client = serve_bridge.start(runtime="local", http_options={"port": 0})
print(client.http_urls[0], flush=True)
sys.stdin.read()
"""
_IMPORT = """
import importlib, os, sys
sys.path.insert(0, os.getcwd())
if os.path.exists("manage.py"):
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    import django
    django.setup()
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: What it says it is.
        text: What is in it.
        reason: Why it is not run; "" if it is.
    """

    language: str
    text: str
    reason: str


def blocks_of(page: Path) -> list[Block]:
    """Return the blocks of *page*, in order."""
    return [Block(language, text, reason or "") for reason, language, text in _FENCED.findall(page.read_text())]


class Reader:
    """Follows one page in a directory, beside an instance of its own; as a context manager it ends that.

    Attributes:
        directory: Where the files are.
        proxy: Host and port of the instance's proxy.
    """

    def __init__(self, page: Path, directory: Path, probe: str) -> None:
        """Take the page, where its files go, and the path that its servers answer HAPPY at."""
        self.directory = directory
        self._page = page
        self._probe = probe
        self._commands = ""
        self._written: dict[str, None] = {}
        self._runtime = TemporaryDirectory(prefix="sb-")
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",  # a file that changes twice a second would be taken from there
            # In a directory of its own its instance may be called "default"; a short one, since sockets are in it.
            "XDG_RUNTIME_DIR": self._runtime.name,
            # All that the machine has installed would take longer to load than the tests take.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "-p serve_bridge.testing.plugin -p no:cacheprovider",
        }
        self._instance = subprocess.Popen(
            [sys.executable, "-c", _INSTANCE],
            cwd=directory,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._instance.stdout is not None
        self.proxy = self._instance.stdout.readline().strip().removeprefix("http://")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._instance.communicate(timeout=LIMIT_S)
        self._runtime.cleanup()

    def follow(self) -> None:
        """Do what the page says, from its beginning to its end; then import what was not run by a command."""
        for block in blocks_of(self._page):
            if block.reason or block.language == "text":
                continue
            text = block.text.replace(PROXY, self.proxy)
            if block.language == "python":
                self._write(text)
            else:
                assert block.language == "console", f"nobody knows what to do with a block of {block.language!r}"
                self._run(list(commands_of(text)))
        if left := self._modules():
            self.run(sys.executable, "-c", _IMPORT, *left)

    def _write(self, text: str) -> None:
        first, _, code = text.partition("\n")
        name = re.fullmatch(r"# ([\w/]+\.py)(, changed)?", first)
        assert name is not None, f"a block of Python names its file, not {first!r}"
        file = self.directory / name[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        if name[2]:
            file.unlink()
        self._written[name[1].removesuffix(".py").replace("/", ".")] = None
        with file.open("a") as opened:
            opened.write(code if file.stat().st_size == 0 else f"\n{code}")

    def _run(self, commands: list[tuple[str, str]]) -> None:
        """Run the commands of a block one after another; its servers side by side."""
        servers = []
        for command, expected in commands:
            self._commands += f"{command}\n"
            options = next((option for pattern, option in _SERVERS.items() if re.match(pattern, command)), None)
            if options is not None:
                servers.append(command + options)
                continue
            fails = expected.startswith(("Error", "CommandError"))
            printed = self.run("bash", "-c", command, fails=fails)
            pattern = re.escape(expected).replace(re.escape("..."), ".*?")
            assert not expected or re.fullmatch(pattern, printed.strip(), re.DOTALL), f"$ {command}\n{printed}"
        with ThreadPoolExecutor() as threads:
            list(threads.map(self._ask, servers))

    def run(self, *command: str, fails: bool = False) -> str:
        """Run a command; return what it prints.

        Raises:
            AssertionError: It ends as it should not.
        """
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
        )
        assert (done.returncode != 0) is fails, f"{command}: {done.stdout}"
        return done.stdout

    def _ask(self, command: str) -> None:
        """Start a server, and have it answer."""
        port = free_port()
        log = self.directory / f"server-{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec env {command.format(port=port)}"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            answer = _answer_at(f"http://127.0.0.1:{port}{self._probe}", process, log)
            assert (answer.status_code, answer.text) == (200, '{"happy":1}'), f"{answer.text}\n{log.read_text()}"
        finally:
            kill_all(process)

    def _modules(self) -> list[str]:
        """Return the modules that the page has written, but for tests and what its commands name."""
        return [name for name in self._written if "test" not in name and not re.search(rf"\b{name}\b", self._commands)]


def _answer_at(url: str, process: subprocess.Popen[bytes], log: Path) -> httpx.Response:
    token = "x" * 32  # for Django's CSRF protection
    headers = {"cookie": f"csrftoken={token}", "x-csrftoken": token}

    def ask() -> httpx.Response | None:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            return http.post(url, json=HAPPY)
        return None

    with httpx.Client(headers=headers, trust_env=False, verify=False, timeout=LIMIT_S) as http:
        return cast(httpx.Response, wait_until(ask, LIMIT_S))  # it waits for what is not None


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a block, each with what is shown after it."""
    for part in re.split(r"^\$ ", text.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected.strip()


def rows_of(page: Path, title: str) -> Mapping[str, str]:
    """Return the rows of the table on *page* whose first column is headed *title*, by the name in it."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    assert table is not None, f"{page.name} has no table of {title!r}"
    return {row.split("|")[1].strip().strip("`"): row for row in table[1].splitlines()}
