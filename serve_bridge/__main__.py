"""`python -m serve_bridge`, and the script `serve-bridge`: the command line."""

from __future__ import annotations

import sys

from serve_bridge.process.extras import require

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say in one line what is missing for it."""
    more = ["ray", "proxy"] if sys.argv[1:2] == ["start"] else []
    try:
        require("the command line", ["cli"], also=more)
    except ImportError as error:
        sys.exit(f"Error: {error}")
    from serve_bridge.cli.main import main as command  # late: click is an extra

    command(prog_name="serve-bridge")


if __name__ == "__main__":
    main()
