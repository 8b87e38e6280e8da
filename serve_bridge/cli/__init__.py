"""The command line. `verbs` serves every command line, `main` is the program `serve-bridge`. Imports nothing heavy."""
