# Every target sets up what it needs; the only thing asked of the machine is Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SETUP := .venv/.setup-done
BENCH_SETUP := .venv/.bench-setup-done
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test faults check bench clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "serve_bridge needs Python 3.11 or newer, found " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[all]'
	@touch $@

$(BENCH_SETUP): $(SETUP)
	$(INSTALL) --editable '.[all,bench]'
	@touch $@

demo: setup
	$(BIN)/python -m examples.demo

test: setup
	$(BIN)/python -m pytest

# The fault tests, ten times as long as `make test` runs them.
faults: setup
	FAULTS_SCALE=$${FAULTS_SCALE:-10} $(BIN)/python -m pytest --timeout 1800 tests/faults

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(BENCH_SETUP)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
