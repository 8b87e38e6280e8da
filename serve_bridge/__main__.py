"""`python -m serve_bridge`: the command line."""

from serve_bridge.cli import main

main(prog_name="serve-bridge")
