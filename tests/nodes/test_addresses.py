"""An engine that web hosts reach at another address than its own, and one with IPv6 only; each needs no Ray."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.nodes.conftest import hosts
from tests.nodes.support.hosts import Host
from tests.support.waiting import wait_until_equal

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(240)]

LIMIT_S = 60.0
"""Upper limit for one step, in seconds."""
INSIDE, OUTSIDE = "10.78.0.2", "10.78.0.1"
"""The address of the web host, and that of the forwarder on its side. No route leads from there to the engine."""

ENGINE = """
    import json, os, socket, sys
    import serve_bridge as serve

    options = json.loads(sys.argv[1])
    os.makedirs("/tmp/keys", 0o700, exist_ok=True)
    client = serve.start(runtime="local", name="far", key_file="/tmp/keys/secret", **options)

    async def hello(request):
        return f"{socket.gethostname()} {os.getpid()}"

    client.create_backend("hello", hello)
    client.create_endpoint("hello", backend="hello", route="/hello")
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""

WORKER = """
    import sys
    from serve_bridge.adapters import Bridge, ForwardedRoute

    bridge, route = Bridge(), ForwardedRoute("hello")
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "http_version": "1.1"}
    for _ in sys.stdin:
        answer = bridge.ask(route, scope, {}, b"", None)
        print(answer.body.decode() if answer.status == 200 else answer.status, flush=True)
"""

FORWARDER = """
    import asyncio, json, sys

    async def pass_on(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def main():
        own, target, ports = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        for outer, inner in ports:

            async def forward(reader, writer, inner=inner):
                try:
                    to_reader, to_writer = await asyncio.open_connection(target, inner)
                except OSError:
                    writer.close()
                    return
                await asyncio.gather(pass_on(reader, to_writer), pass_on(to_reader, writer))

            await asyncio.start_server(forward, own, outer)
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    asyncio.run(main())
"""


@contextlib.contextmanager
def running(host: Host, program: str, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run the lines of *program* on *host* until the block ends; its standard input and output are pipes."""
    process = host.start_python(program, *arguments, environment=variables)
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait(LIMIT_S)
        process.stdout.close()


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that *process* prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(worker: subprocess.Popen[str]) -> str:
    """Let the web worker forward a request; return the answer, or the status of a failure."""
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return line_of(worker)


def variables(engine: Host, web: Host, address: str, role: str = "forward") -> dict[str, str]:
    """Copy the key file of *role* from the engine to the web host; return the two variables there."""
    target = f"/tmp/far.{role}.key"
    web.path(target).touch(0o600)
    web.path(target).write_bytes(engine.path(f"/tmp/keys/far.{role}.key").read_bytes())
    return {"SERVE_BRIDGE_ADDRESS": f"serve-bridge://{address}/far", "SERVE_BRIDGE_KEY_FILE": target}


def test_a_web_host_reaches_an_engine_behind_nat_also_after_its_restart() -> None:
    """The web host knows the outer address and port only. The data ports are the same on both sides."""
    with hosts() as switch:
        engine, nat, web = (switch.add(name) for name in ("engine", "nat", "web"))
        nat.succeed("ip", "address", "add", f"{OUTSIDE}/24", "dev", "eth0")
        web.succeed("ip", "address", "flush", "dev", "eth0")
        web.succeed("ip", "address", "add", f"{INSIDE}/24", "dev", "eth0")
        assert web.ask("ip", "route", "get", engine.address)[0] != 0
        ports = [(17000, 7000), *((port, port) for port in range(7001, 7005))]
        options = {
            "listen": f"{engine.address}:7000",
            "advertise": f"{OUTSIDE}:17000",
            "data_ports": "7001-7004",
            "http_options": {"location": "NoServer"},
        }
        with running(nat, FORWARDER, OUTSIDE, engine.address, json.dumps(ports)) as forwarder:
            assert line_of(forwarder) == "ready"
            with contextlib.ExitStack() as stack:
                with running(engine, ENGINE, json.dumps(options)) as first:
                    answer = f"engine {line_of(first)}"
                    environment = variables(engine, web, f"{OUTSIDE}:17000")
                    worker = stack.enter_context(running(web, WORKER, **environment))
                    assert ask(worker) == answer
                    (process,) = psutil.Process(first.pid).children()
                    process.kill()
                with running(engine, ENGINE, json.dumps(options)) as second:
                    answer = f"engine {line_of(second)}"
                    wait_until_equal(lambda: ask(worker), answer, LIMIT_S)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this kernel has no IPv6")
@pytest.mark.parametrize(
    ("listen", "advertise"),
    [("[fd77::1]:7000", None), ("[::]:7000", "[fd77::1]:7000")],
    ids=["one address", "all addresses"],
)
def test_a_web_host_with_ipv6_only_reaches_an_engine(listen: str, advertise: str | None) -> None:
    """The controller, the replicas and the proxy listen there, and the command line manages the instance there."""
    with hosts() as switch:
        engine, web = switch.add("engine"), switch.add("web")
        for host, address in ((engine, "fd77::1"), (web, "fd77::2")):
            host.succeed("ip", "address", "add", f"{address}/64", "dev", "eth0", "nodad")
        web.succeed("ip", "-4", "address", "flush", "dev", "eth0")
        options = {
            "listen": listen,
            "advertise": advertise,
            "data_ports": "7001-7004",
            "http_options": {"host": "fd77::1", "port": 8000},
        }
        with running(engine, ENGINE, json.dumps(options)) as process:
            answer = f"engine {line_of(process)}"
            with running(web, WORKER, **variables(engine, web, "[fd77::1]:7000")) as worker:
                assert ask(worker) == answer
            fetch = (
                "import urllib.request; print(urllib.request.urlopen('http://[fd77::1]:8000/hello').read().decode())"
            )
            assert web.python(fetch).strip() == answer
            environment = variables(engine, web, "[fd77::1]:7000", "manage")
            status, printed = web.command("status", "--format", "json", environment=environment)
            assert (status, json.loads(printed)["http_urls"]) == (0, ["http://[fd77::1]:8000"]), printed
            status, printed = web.command("doctor", "--format", "json", environment=environment)
            found = [each["text"] for each in json.loads(printed)["findings"] if each["check"] == "ports"]
            assert found == [], printed
