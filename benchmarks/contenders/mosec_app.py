"""The no-op in Mosec, bytes in and out: `python -m benchmarks.contenders.mosec_app`, with Mosec's own options."""

from typing import Any

from mosec import Server, Worker

from benchmarks import BODY


class Noop(Worker):  # type: ignore[misc]  # Mosec has no types
    """The handler; a module's own, since a spawned process has to find it."""

    def deserialize(self, data: bytes) -> bytes:
        """Leave the bytes as they are: no JSON on the way."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Leave the bytes as they are."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Answer at once."""
        return BODY


if __name__ == "__main__":
    server: Any = Server()
    server.append_worker(Noop, num=1)
    server.run()
