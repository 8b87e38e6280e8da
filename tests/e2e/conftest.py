"""A browser for the tests of pages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    """Chromium without a window; its home is a directory of its own."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs and "CI" not in os.environ:
        pytest.skip("needs chromium and chromedriver: make system-packages")
    options = ChromeOptions()
    options.binary_location, driver = map(str, programs)
    options.add_argument("--headless=new")
    options.add_argument("--window-size=1000,1000")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # which Chromium refuses to set up for root
    with tempfile.TemporaryDirectory(prefix="b-") as home:
        environment = {**os.environ, "HOME": home, "TMPDIR": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        with Chrome(options, ChromeService(driver, env=environment)) as browser:
            yield browser
