"""A proxy on Ray whose process has another server than the proxy was tried with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
START = """
import serve_bridge as serve

try:
    serve.start(name="without-a-server", http_options={"port": 0}, address="local")
except ImportError as error:
    print(error)
"""


def test_a_proxy_with_an_untried_server_is_one_error_of_start(runtime_directory: Path, tmp_path: Path) -> None:
    """It names the version and what to install, and does not say that an actor died."""
    metadata = tmp_path / "uvicorn-0.99.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: uvicorn\nVersion: 0.99\n")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "RAY_TMPDIR": str(runtime_directory),
    }
    ran = subprocess.run([sys.executable, "-c", START], env=environment, capture_output=True, text=True, timeout=90)
    assert ran.stdout.startswith("the HTTP proxy cannot run: uvicorn 0.99 is installed"), ran.stderr
    assert "pip install 'serve-bridge[proxy]'" in ran.stdout
