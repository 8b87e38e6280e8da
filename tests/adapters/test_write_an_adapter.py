"""docs/write-an-adapter.md: its example is a package of its own, which is installed here, and keeps the contract."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "examples" / "bottle_adapter"
PAGE = (ROOT / "docs" / "write-an-adapter.md").read_text()
BLOCKS = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the package was installed to, by pip and without a network."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(PACKAGE)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the package is installed, away from this repository and its configuration."""
    paths = os.pathsep.join([str(installed), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=installed, env=environment, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize("name", ["serve_bridge_bottle.py", "pyproject.toml", "test_bottle.py"])
def test_a_block_of_the_page_is_a_file_of_the_package(name: str) -> None:
    """To the letter."""
    assert BLOCKS[name] == (PACKAGE / name).read_text()


def test_every_block_of_code_is_one_of_these() -> None:
    """So that none goes untested."""
    assert len(re.findall(r"^```(?:python|toml)$", PAGE, re.MULTILINE)) == len(BLOCKS)


def test_the_installed_adapter_is_found_by_its_name(installed: Path) -> None:
    """Beside ours."""
    program = "from serve_bridge.adapters import *; print(installed_adapters(), load_adapter('bottle').interface)"
    found = run(installed, "-c", program)
    assert found.stdout.strip().endswith(" wsgi"), found.stderr
    assert "'bottle', 'django'" in found.stdout


def test_the_installed_adapter_keeps_the_contract(installed: Path) -> None:
    """By a run of pytest of its own, which finds the plug-in by itself; nothing is skipped."""
    (installed / "pytest.ini").write_text("[pytest]\n")
    test = installed / "test_bottle.py"
    test.write_text((PACKAGE / "test_bottle.py").read_text())
    outcome = run(
        installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:django", "-p", "no:asyncio", str(test)
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert re.fullmatch(r"\d+ passed in \S+", outcome.stdout.splitlines()[-1]), outcome.stdout
