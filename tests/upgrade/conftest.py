"""The two versions of the package which the tests of an upgrade mix."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.programs import ROOT
from tests.upgrade.support.releases import unpack_previous, with_release


@pytest.fixture(scope="session")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the previous version of the package."""
    return unpack_previous(tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="session")
def releases(previous: Path) -> Mapping[str, Mapping[str, str]]:
    """The environment of a process of each version."""
    return {"old": {**os.environ, **with_release(previous)}, "new": {**os.environ, **with_release(ROOT)}}
