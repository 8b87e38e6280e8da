"""Writes the bytes of new formats: `python -m tests.golden`. It never changes existing bytes.

To add a format, add it to `tests.golden.formats`, and run this command. A format gets a new name if earlier versions
cannot read its new form. The old name stays for as long as today's code must read the old form.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.golden.formats import FORMATS

DIRECTORY = Path(__file__).parent


def main() -> None:
    """Write the missing files, and print their names."""
    for name, each in FORMATS.items():
        path = DIRECTORY / f"{name}.bin"
        if not path.exists():
            path.write_bytes(each.write())
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
