"""Hostile and odd requests against HTTP servers for ASGI applications, over loopback sockets.

Run ``python -m benchmarks.edge_probe`` for a table of case x server, or name servers. A cell is the statuses
that came back, in order, each with ``+app`` if the application was called; then how the connection ended:
``closed``, ``reset``, or ``open``, when it still was after the waiting time. What no edge should do has a
**no:** before it.
Each server is a process of its own with one small application; those that are not installed are skipped.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import re
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.contenders import free_port
from benchmarks.edge_cases import MIB, Case, cases
from benchmarks.web_load import REPOSITORY

WAIT_S = 1.5
"""How long the end of a connection is waited for, to tell an open one from a closed one."""

DEADLINE_S = 2.5
"""Every deadline that a server lets one set."""

SLOW_WAIT_S = 6.0
"""How long the end of a connection is waited for in a case that is about a deadline."""

SERVERS = {
    "edge": "serve_bridge",
    "uvicorn-httptools": "httptools",
    "uvicorn-h11": "h11",
    "uvicorn-zttp": "zttp",
    "granian": "granian",
    "hypercorn": "hypercorn",
}

# The application


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer by path; say in a header that the application was called, and with which header names."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    path, status, body = scope["path"], 200, b"ok"
    names = b",".join(sorted(name for name, _ in scope["headers"]))
    headers = [(b"x-app", names), (b"content-length", b"2")]
    if path == "/read":
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.disconnect":
            return
    elif path == "/slow":
        await asyncio.sleep(0.2)
    elif path[1:].isdigit():
        status = int(path[1:])
        headers = headers[:1] if status < 200 else headers
    elif path == "/split":
        headers.append((b"x-a", b"b\r\nset-cookie: c=d"))
    elif path == "/lengths":
        headers.append((b"content-length", b"3"))
    elif path == "/longer":
        body = b"okokok"
    elif path in ("/stream", "/big"):
        headers = headers[:1]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if path == "/big":
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"x" * MIB, "more_body": True})
    await send({"type": "http.response.body", "body": body})


def serve(kind: str, port: int) -> None:
    """Run one server until it is killed."""
    import uvloop

    uvloop.run(_serve(kind, port))


async def _serve(kind: str, port: int) -> None:
    if kind == "edge":
        from serve_bridge.config import HTTPOptions
        from serve_bridge.proxy.edge import EdgeServer

        short = {f"{name}_timeout_s": DEADLINE_S for name in ("header", "body", "write")}
        await EdgeServer(app, HTTPOptions(port=port, allowed_hosts=["*"], **short)).start()  # type: ignore[arg-type]
        await asyncio.Event().wait()
    elif kind.startswith("uvicorn"):
        import uvicorn

        http = kind.partition("-")[2]
        config = uvicorn.Config(app, port=port, http=http, access_log=False, log_level="critical")
        await uvicorn.Server(config).serve()
    elif kind == "granian":
        from granian.constants import HTTPModes, Interfaces
        from granian.http import HTTP1Settings
        from granian.server.embed import Server

        await Server(
            app,
            port=port,
            interface=Interfaces.ASGI,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=int(DEADLINE_S * 1000), max_buffer_size=72 * 1024),
            log_enabled=False,
        ).serve()
    else:
        config = importlib.import_module("hypercorn.config").Config()
        config.bind, config.errorlog = [f"127.0.0.1:{port}"], None
        config.h11_max_incomplete_size, config.read_timeout = 72 * 1024, 3
        forever = asyncio.Event().wait
        await importlib.import_module("hypercorn.asyncio").serve(app, config, shutdown_trigger=forever)


# The client


def probe(port: int, case: Case) -> str:
    """Send one case and return its outcome."""
    data = case.data.removesuffix(b"<FIN>")
    with socket.socket() as client:
        if case.name.startswith("S03"):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", port))
        slow = case.name.startswith(("H02", "H03", "H13 final", "S02", "S03"))
        client.settimeout(SLOW_WAIT_S if slow else WAIT_S)
        received, end = b"", ""
        try:
            client.sendall(data)
        except TimeoutError:
            pass
        except OSError:
            end = "reset"
        if data != case.data:
            client.shutdown(socket.SHUT_WR)
        if case.name.startswith("S03"):
            time.sleep(SLOW_WAIT_S)
            return _after_silence(client)
        try:
            while piece := client.recv(65536):
                received += piece
            end = "closed"
        except TimeoutError:
            end = end or "open"
        except OSError:
            end = "reset"
    return " ".join([*_answers(received), end])


def _after_silence(client: socket.socket) -> str:
    count = 0
    try:
        while piece := client.recv(MIB):
            count += len(piece)
            if count > 60 * MIB:
                return "open"
    except TimeoutError:
        return "open"
    except OSError:
        return "reset"
    return "closed"


def _answers(received: bytes) -> list[str]:
    answers: list[str] = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3})|HTTP/1\.0 (\d{3})", head)
        if status is None:
            return [*answers, "junk"]
        called = b"\nx-app:" in head.lower()
        answers.append((status[1] or status[2]).decode() + ("+app" if called else ""))
        length = re.search(rb"\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if length and status[1] not in (b"204", b"304", b"123"):
            received = received[int(length[1]) :]
        elif b"chunked" in head.lower():
            received = received.partition(b"0\r\n\r\n")[2]
        elif not answers[-1].startswith("1"):
            index = received.find(b"HTTP/1.1 ")
            received = received[index:] if index >= 0 else b""
    return answers


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody accepts on *port*."""
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError("the server ended at once")
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server never listened")


class Running:
    """One server in a process of its own, started again when a case took it down."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.start()

    def start(self) -> None:
        """Start it on a free port and wait until it listens."""
        self.port = free_port()
        command = [sys.executable, "-m", "benchmarks.edge_probe", "serve", self.kind, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY)
        wait_for(self.port, self.process)

    def outcome(self, case: Case) -> str:
        """Return what the server made of *case*."""
        try:
            return probe(self.port, case)
        except ConnectionRefusedError:
            self.stop()
            self.start()
            return probe(self.port, case) + ", after the case before took the server down"

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def outcomes(kind: str, only: str = "") -> dict[str, tuple[bool, str]]:
    """Run the cases whose name holds *only*; return of each whether it is as wanted, and its outcome."""
    running, found = Running(kind), {}
    try:
        for case in cases():
            if only in case.name:
                outcome = running.outcome(case)
                found[case.name] = (re.fullmatch(case.wanted, outcome) is not None, shortened(outcome))
    finally:
        running.stop()
    return found


def shortened(outcome: str) -> str:
    """Return *outcome* with long repetitions counted."""
    return re.sub(r"(\S+ )\1{5,}", lambda run: f"{run[1]}x{len(run[0]) // len(run[1])} ", outcome)


def main(arguments: list[str]) -> None:
    """Print the table."""
    if arguments[:1] == ["serve"]:
        serve(arguments[1], int(arguments[2]))
        return
    as_json = "--json" in arguments
    only = next((a[7:] for a in arguments if a.startswith("--only=")), "")
    named = [a for a in arguments if not a.startswith("--")]
    kinds = named or [kind for kind, module in SERVERS.items() if importlib.util.find_spec(module)]
    found = {kind: outcomes(kind, only) for kind in kinds}
    if as_json:
        print(json.dumps(found))
        return
    print("| case | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
    for name in next(iter(found.values())):
        cells = [("" if ok else "**no:** ") + outcome for ok, outcome in (found[kind][name] for kind in kinds)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    totals = [f"{sum(ok for ok, _ in found[kind].values())} of {len(found[kind])}" for kind in kinds]
    print("| as wanted | " + " | ".join(totals) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
