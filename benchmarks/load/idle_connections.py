"""Hold idle connections until the standard input ends: `python -m benchmarks.load.idle_connections URL COUNT`.

Each connection gets one answer first, like an idle connection of a browser. The program prints the number of
connections once all are open.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from urllib.parse import urlsplit

OPENING = 100
SPARE_FILES = 100


async def hold(url: str, count: int) -> None:
    """Open *count* connections and hold them until standard input ends."""
    parts = urlsplit(url)
    request = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    slots = asyncio.Semaphore(OPENING)

    async def opened() -> asyncio.StreamWriter:
        async with slots:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise SystemExit(f"answered {head[:80]!r}")
            return writer

    writers = await asyncio.gather(*(opened() for _ in range(count)))
    print(len(writers), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for writer in writers:
        writer.transport.abort()


def main() -> None:
    """Hold the connections of the command line."""
    url, count = sys.argv[1], int(sys.argv[2])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < count + SPARE_FILES:
        raise SystemExit(f"{count} connections need more than the {most} open files that this process may have")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(hold(url, count))


if __name__ == "__main__":
    main()
