"""The no-op in LitServe: `python -m benchmarks.contenders.litserve_app PORT`."""

import sys

from litserve import LitAPI, LitServer
from starlette.requests import Request
from starlette.responses import Response

from benchmarks import BODY


class Noop(LitAPI):  # type: ignore[misc]  # LitServe has no types
    """The handler. It stands in a module, because a spawned process imports it."""

    def setup(self, device: str) -> None:
        """Load nothing."""

    def decode_request(self, request: Request) -> None:
        """Ignore the body."""

    def predict(self, x: None) -> bytes:
        """Answer at once."""
        return BODY

    def encode_response(self, output: bytes) -> Response:
        """Send the bytes as they are."""
        return Response(output)


if __name__ == "__main__":
    server = LitServer(Noop(api_path="/inference"), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
