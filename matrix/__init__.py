"""Runs the tests on other Pythons and with other versions of the dependencies; `docs/versions.md` has the results."""
