"""Hostile and odd requests against HTTP servers for ASGI applications, over loopback sockets.

Run ``python benchmarks/edge_probe.py`` for a table of case x server, or name servers. A cell is the statuses
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

GET = b"GET /x HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /read HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        name: Row id of the requirements, and a few words.
        data: Bytes to send.
        wanted: Regular expression for the outcomes that this project accepts.
    """

    name: str
    data: bytes
    wanted: str


REFUSED = r"4\d\d closed"
BAD = r"400 closed"


def cases() -> Iterator[Case]:
    """Yield all cases; big ones are built when they are reached."""
    random_bytes = bytes((i * 7919 + 13) % 251 for i in range(65536))
    yield Case("plain GET", GET + END, r"200\+app open")
    yield Case("H01 random bytes", random_bytes, BAD)
    yield Case("H01 TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes[:500], BAD)
    yield Case("H01 SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n", BAD)
    yield Case("H02 nothing sent", b"", "closed")
    yield Case("H03 half a head", b"GET / HTTP/1.1\r\nHo", "closed")
    yield Case("H04 no Host", b"GET /x HTTP/1.1\r\n\r\n", BAD)
    yield Case("H04 two equal Hosts", GET + b"Host: a\r\n\r\n", BAD)
    yield Case("H04 two Hosts", GET + b"Host: b\r\n\r\n", BAD)
    yield Case("H04 malformed Host", b"GET /x HTTP/1.1\r\nHost: a/b@c\r\n\r\n", BAD)
    yield Case(
        "H06 CL + TE",
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + END,
        BAD,
    )
    yield Case(
        "H06 TE + CL, odd case",
        POST + b"tRaNsFeR-eNcOdInG: chunked\r\ncontent-LENGTH: 5\r\n\r\n0\r\n\r\n",
        BAD,
    )
    yield Case(
        "H07 TE gzip, chunked",
        POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        r"(400|501) closed",
    )
    yield Case("H07 TE ,chunked", POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", r"(400|501) closed")
    yield Case("H07 TE xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", r"(400|501) closed")
    yield Case("H07 TE on HTTP/1.0", CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n", r"(400|501) closed")
    yield Case("H08 two CL, equal", POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", BAD)
    yield Case("H08 two CL", POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", BAD)
    for value in (b"010", b"+1", b"-1", b"1_0", b"0x1", b"1, 1", b"1 1", b"", b"9" * 30):
        yield Case(
            f"H09 CL {value.decode()[:9]!r}",
            POST + b"Content-Length: " + value + b"\r\n\r\nx" * 2,
            r"4(00|13) closed",
        )
    yield Case("H10 space before colon", GET + b"A : b\r\n\r\n", BAD)
    yield Case("H10 obs-fold", GET + b"A: b\r\n c\r\n\r\n", BAD)
    yield Case("H10 bare LF", b"GET /x HTTP/1.1\nHost: a\n\n", BAD)
    yield Case("H10 bare CR in value", GET + b"A: b\rc\r\n\r\n", BAD)
    yield Case("H10 NUL in value", GET + b"A: b\0c\r\n\r\n", BAD)
    yield Case("H12 extension of 1 MB", CHUNKED + b"1;" + b"a" * MIB + b"\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 no CRLF after data", CHUNKED + b"1\r\nxx0\r\n\r\n", BAD)
    yield Case("H13 bare LF in chunk line", CHUNKED + b"1\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 1;", CHUNKED + b"1;\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 NUL in extension", CHUNKED + b"1;a=\0\r\nx\r\n0\r\n\r\n", BAD)
    yield Case("H13 final CRLF missing", CHUNKED + b"1\r\nx\r\n0\r\n", r"closed|408 closed")
    yield Case("H14 trailer Content-Length", CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", BAD)
    yield Case("H14 trailer Authorization", CHUNKED + b"0\r\nAuthorization: x\r\n\r\n", BAD)
    yield Case("H14 trailer X-Fine", CHUNKED + b"0\r\nX-Fine: x\r\n\r\n", r"200\+app open")
    yield Case("H14 10,000 trailers", CHUNKED + b"0\r\n" + b"X-A: b\r\n" * 10_000 + END, "431 closed")
    for version in (b" HTTP/1.2", b" HTTP/01.1", b" HTTP/9.9", b"", b" RTSP/1.0", b" ICE/1.0", b" http/1.1"):
        yield Case(f"H16 GET /{version.decode()}", b"GET /x" + version + b"\r\nHost: a\r\n\r\n", r"(400|505) closed")
    yield Case("H16 HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", r"(400|505) closed")
    for line in (b"get /x", b"G\tT /x", b"GET  /x", b"GET\t/x", b"A" * 4096 + b" /x"):
        yield Case(
            f"H17 {line.decode()[:9]!r}",
            line + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            r"(400|405|414|501) closed|405 open",
        )
    for target in (b"*", b"foo", b"@host", b"/x#y", b"http://b/x", b"/\xff"):
        yield Case(f"H19 GET {target!r}"[:24], b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n", BAD)
    yield Case("H19 absolute form", b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app open|400 closed")
    yield Case("H19 OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", r"20[04] open")
    yield Case("H19 CONNECT", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", r"40[05] closed")
    yield Case("H21 line of 8 KiB + 1", b"GET /" + b"a" * 8179 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "414 closed")
    yield Case("H21 line of 2 MB", b"GET /" + b"a" * 2 * MIB, "414 closed")
    yield Case("H22 101 headers", GET + b"A: b\r\n" * 100 + END, "431 closed")
    yield Case("H22 20,000 headers", GET + b"A: b\r\n" * 20_000 + END, "431 closed")
    yield Case("H22 header of 2 MB", GET + b"A: " + b"b" * 2 * MIB, "431 closed")
    yield Case("D03 5,000 copies", GET + b"Cookie: b\r\n" * 5_000 + END, "431 closed")
    yield Case("H23 1,000 pipelined", (GET + END) * 1_000, r"(200\+app )+open")
    yield Case("H23 valid, then invalid", GET + END + b"GET\r\n\r\n", r"200\+app 400 closed")
    yield Case(
        "H26 unread 100-continue",
        b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        r"200\+app (open|closed)",
    )
    yield Case(
        "H26 read 100-continue",
        POST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\nx",
        r"100 200\+app open",
    )
    yield Case("H26 unknown Expect", GET + b"Expect: 200-maybe\r\n\r\n", "417 closed")
    yield Case("H27 HEAD", b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app open")
    for status in (204, 304):
        yield Case(
            f"H27 {status} with a body",
            b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % status + GET + END,
            rf"{status}\+app 200\+app open",
        )
    yield Case("H28 close, keep-alive", GET + b"Connection: close, keep-alive\r\n\r\n", r"200\+app closed")
    yield Case("R04 %zz", b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", r"400 (closed|open)")
    yield Case("R04 %00", b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", r"400 (closed|open)")
    yield Case("D10 name with _", GET + b"X_A: b\r\n\r\n", r"200\+app open")
    yield Case("B05 CL above the limit", POST + b"Content-Length: 20000000\r\n\r\n", "413 closed")
    yield Case(
        "B05 chunked, 20 MB",
        CHUNKED + b"100000\r\n" + b"x" * MIB + (b"\r\n100000\r\n" + b"x" * MIB) * 19,
        r"413 (closed|reset)",
    )
    yield Case(
        "B13 unread upload",
        b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 16000000\r\n\r\n" + b"x" * 4 * MIB,
        r"200\+app (closed|reset)",
    )
    yield Case("S02 no body comes", POST + b"Content-Length: 5\r\n\r\n", r"closed|408 closed")
    yield Case("S03 nobody reads", b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n", "closed|reset")
    yield Case("S05 FIN after the request", b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n<FIN>", r"(100 )?200\+app closed")
    for status in (123, 99, 600):
        wanted = r"123\+app closed" if status == 123 else r"500 (closed|open)"
        yield Case(f"U03 status {status}", b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % status, wanted)
    yield Case("U04 CRLF in a header", b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n", r"500 (closed|open)")
    yield Case("U04 two Content-Lengths", b"GET /lengths HTTP/1.1\r\nHost: a\r\n\r\n", r"500 (closed|open)")
    yield Case("U05 body longer", b"GET /longer HTTP/1.1\r\nHost: a\r\n\r\n", r"200\+app (open|closed)")
    yield Case("stream to HTTP/1.0", b"GET /stream HTTP/1.0\r\n\r\n", r"200\+app closed")


# The application


async def app(scope: dict, receive: Callable, send: Callable) -> None:  # type: ignore[type-arg]
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
        await EdgeServer(app, HTTPOptions(port=port, **short)).start()  # type: ignore[arg-type]
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


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Running:
    """One server in a process of its own, started again when a case took it down."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.start()

    def start(self) -> None:
        """Start it on a free port and wait until it listens."""
        self.port = free_port()
        command = [sys.executable, __file__, "serve", self.kind, str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
