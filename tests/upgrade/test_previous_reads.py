"""The previous version reads what today's processes send to it, and the checkpoint, so a user can go back to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.formats import FORMATS
from tests.upgrade.support.releases import with_release

SENT = [
    *("call-options", "passed-request", "errors", "failure", "code"),
    *("create-backend", "update-backend", "update-config", "declare-endpoints", "note-deployment", "differences"),
    *("configure", "move", "answer-status", "answer-backends", "answer-unfinished", "answer-instance"),
]
"""The pickles that reach processes of the previous version. Arguments of new processes do not."""

READ = """
import pickle, sys
from pathlib import Path
from serve_bridge.user_code.frozen_code import thaw_code
from serve_bridge.wire import failure, payload

special = {"code": thaw_code, "failure": failure.unpack, "answer-instance": pickle.loads}
path = Path(sys.argv[1])
print(repr(special.get(path.name, payload.unpack)(path.read_bytes())))
"""

LOAD = """
import asyncio, json, sys
from pathlib import Path
from serve_bridge.controller.checkpoint import Checkpoints
from serve_bridge.runtimes.local import MemoryStore

async def main():
    store = MemoryStore()
    await store.put("checkpoint", Path(sys.argv[1]).read_bytes())
    found = await Checkpoints(store, "shop").load()
    backend = found.wanted.backends["b"]
    update = backend.config.merged({"num_replicas": 5})
    print(json.dumps([update.num_replicas, list(found.wanted.endpoints), [each.id for each in found.replicas]]))

asyncio.run(main())
"""


def read_by(release: Path, program: str, path: Path) -> str:
    """Return what *program* prints with the package in *release* about the file at *path*."""
    command = [sys.executable, "-c", program, str(path)]
    environment = {**os.environ, **with_release(release)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", SENT)
def test_a_pickle_of_today_is_read(previous: Path, tmp_path: Path, name: str) -> None:
    """Its classes are at the paths, and take the values, that the previous version knows."""
    path = tmp_path / name
    path.write_bytes(FORMATS[name].write())
    assert read_by(previous, READ, path)


def test_a_checkpoint_of_today_is_loaded(previous: Path, tmp_path: Path) -> None:
    """With its options, which the controller of the previous version changes later."""
    path = tmp_path / "checkpoint"
    path.write_bytes(FORMATS["checkpoint-3"].write())
    assert json.loads(read_by(previous, LOAD, path)) == [5, ["e"], ["r-1", "r-2"]]
