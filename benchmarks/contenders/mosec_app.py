"""The no-op in Mosec, bytes in and out: `python -m benchmarks.contenders.mosec_app`, with Mosec's own options."""

from typing import Any

from mosec import Server, Worker

from benchmarks import BODY


class Noop(Worker):  # type: ignore[misc]  # Mosec has no types
    """The handler. It stands in a module, because a spawned process imports it."""

    def deserialize(self, data: bytes) -> bytes:
        """Return the bytes unchanged: no JSON."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Return the bytes unchanged."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Answer at once."""
        return BODY


if __name__ == "__main__":
    server: Any = Server()
    server.append_worker(Noop, num=1)
    server.run()
