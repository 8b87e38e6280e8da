"""Files with certificates: the name of each fault, and what changes with a renewal."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from serve_bridge.errors import ConfigError
from serve_bridge.process.certificate_files import GivenFile, load_authorities, load_pair, stamps_of
from tests.support.certificates import make_certificate


def context() -> ssl.SSLContext:
    """Return a context to load into."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def test_a_pair_is_loaded(tmp_path: Path) -> None:
    """The context then has the certificate."""
    made = make_certificate(tmp_path)
    load_pair(context(), GivenFile("cert", str(made.certificate)), GivenFile("key", str(made.key)))


def test_an_encrypted_key_does_not_ask_on_the_terminal(tmp_path: Path) -> None:
    """The error says what it needs, and does not contain the password."""
    made = make_certificate(tmp_path)
    key = made.encrypted_key("secret")
    with pytest.raises(ConfigError, match=r"key '.*' for cert '.*': no private key in PEM form, or it needs a pass"):
        load_pair(context(), GivenFile("cert", str(made.certificate)), GivenFile("key", str(key)))


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    """The error names the option and the path."""
    with pytest.raises(ConfigError, match=f"ca '{tmp_path}': Is a directory"):
        load_authorities(context(), GivenFile("ca", str(tmp_path)))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["fifo", "device"])
def test_a_fifo_and_a_device_are_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A read of them would not end."""
    make(tmp_path / "a")
    made = make_certificate(tmp_path)
    right, wrong = GivenFile("cert", str(made.certificate)), GivenFile("x", str(tmp_path / "a"))
    for load in (
        lambda: load_authorities(context(), wrong),
        lambda: load_pair(context(), wrong, None),
        lambda: load_pair(context(), right, wrong),
    ):
        with pytest.raises(ConfigError, match=f"x '{wrong.path}': it is not a regular file; give the path"):
            load()


def test_the_stamp_of_a_replaced_file_differs(tmp_path: Path) -> None:
    """The stamp of a file that does not exist is None."""
    path, draft = tmp_path / "a", tmp_path / "b"
    path.write_text("x")
    before = stamps_of([str(path)])
    draft.write_text("x")
    draft.replace(path)
    assert stamps_of([str(path)]) != before
    assert stamps_of([str(tmp_path / "none")]) == [None]
