# Every target sets up what it needs; the only thing asked of the machine is Python 3.11 or newer.
# `test` also wants the programs of SYSTEM_PACKAGES, Debian's, which `setup` installs where it may.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SETUP := .venv/.setup-done
BENCH_SETUP := .venv/.bench-setup-done
SYSTEM_PACKAGES := apache2-bin chromium chromium-driver curl debootstrap default-jdk-headless faketime iproute2 nginx-light postgresql procps redis-server systemd
BENCH_PACKAGES := redis-server wrk
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Targets without a file of their name.
.PHONY: everything setup system-packages demo fast test ci faults nodes tokens conformance pythons matrix newer-python prose typing check docs bench clean

setup: $(SETUP) system-packages

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "serve_bridge needs Python 3.11 or newer, found " + sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --editable '.[all,dev,docs]'
	@touch $@

$(BENCH_SETUP): $(SETUP)
	$(INSTALL) --editable '.[all,dev,docs,bench]'
	@touch $@

# The programs that some tests use: a browser, a database, HTTP clients and nginx. Without them those tests are skipped.
system-packages:
	@missing=$$(for package in $(SYSTEM_PACKAGES); do \
		dpkg --status $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; \
	done); \
	as_root=$$(test "$$(id -u)" = 0 || echo sudo -n); \
	test -z "$$missing" || { \
		$$as_root apt-get --quiet=2 update && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 install --yes --no-install-recommends $$missing; \
	} >&2 || echo "cannot install the Debian packages" $$missing "here, so what needs them is skipped;" \
		"as root: apt-get install" $$missing >&2

demo: $(SETUP)
	$(BIN)/python -m examples.demo

# Whole files side by side, the longest first. The workers wait now and then, so there is one more than there are cores.
PYTEST := $(BIN)/python -m pytest --numprocesses $(shell echo $$(( $$(nproc) + 1 ))) --dist loadfile --no-loadscope-reorder

# The unit tests and those of the local runtime, without fuzzing and without the slow ones: for the time while code is
# written.
fast: $(SETUP)
	$(PYTEST) -m "not slow" tests/unit tests/local

# What a change needs before `make ci`. `make everything` does more in six places:
# - A test that runs on both runtimes runs on Ray too. Here a third of them do, with one row of their tables. FUZZ_SEED
#   chooses them, and the head of the run shows it. It is a function of the committed code and tests.
# - It tests crashes, overload and leaks (tests/faults), three hosts (tests/nodes) and the previous version (tests/upgrade).
# - Property tests try 100 examples, here 20.
# - Fuzz tests make 50,000 requests, here 5,000.
# - The inputs and the order of the tests differ from run to run. Here they are the same for the same code and tests.
# - It runs the checks, and the tests on a newer Python.
test: setup
	EFFORT=quick $(PYTEST) --ignore tests/faults --ignore tests/nodes --ignore tests/upgrade

# What must pass before a change lands: the checks, a newer Python, and all tiers.
ci: check newer-python setup
	EFFORT=quick $(PYTEST)

# All tests with all inputs, on Ray too; longer than `make ci` by about a half.
everything: check newer-python setup
	EFFORT=full NODES_ALL=1 $(PYTEST)

# All promises of docs/reliability.md at full count, of which `make ci` runs a tenth; refreshes the page. It takes hours.
# `make faults ROWS="P9 P11"` tests some of them. `FAULTS_SCALE=1 SIMULATION_SEEDS=100 make faults` takes minutes.
faults: $(SETUP) system-packages
	FAULTS_SCALE=$${FAULTS_SCALE:-10} SIMULATION_SEEDS=$${SIMULATION_SEEDS:-10000} NODES_ALL=1 \
		$(BIN)/python -m tests.faults.report $(or $(ROWS),all)

# The tests on three hosts, each made of namespaces of this machine: two Ray nodes and a web host; as root. Without root
# they are skipped. `make ci` runs them too, but for the slow ones.
nodes: $(SETUP) system-packages
	NODES_ALL=1 $(BIN)/python -m pytest tests/nodes

# The tests that need Ray, with Ray's tokens on whatever its default is.
tokens: $(SETUP)
	RAY_AUTH_MODE=token $(BIN)/python -m pytest -m ray tests

# All cases of the Autobahn test suite, of which the other targets run the quick ones; ten minutes, on an idle machine.
conformance: $(SETUP)
	CONFORMANCE=1 $(BIN)/python -m pytest tests/adapters/test_websocket_conformance.py

# Newer Pythons below .pythons, each a small Debian system that `debootstrap` makes; as root, about a minute each.
pythons: $(SETUP) system-packages
	$(BIN)/python -m matrix pythons

# The tests on all Pythons, with the lowest and the newest versions of the dependencies; writes the table of docs/versions.md.
# `make matrix ROWS="lowest 3.14"` runs some rows.
matrix: $(SETUP) system-packages
	$(BIN)/python -m matrix $(ROWS)

# The quick tests on Python 3.13 with Django 6.1, where `debootstrap` can run.
newer-python: $(SETUP) system-packages
	EFFORT=quick $(BIN)/python -m matrix quick

# The language of the pages and of the code, by the rules that can be counted.
prose: $(SETUP)
	$(BIN)/python -m prose

# The types of the public API, by mypy, pyright and pyrefly.
typing: $(SETUP)
	$(BIN)/python -m tests.typing

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m prose
	$(BIN)/python -m tests.typing
	$(BIN)/python -m zensical build --strict --clean

# The documentation site, in site/. A link or a name that leads nowhere is an error.
docs: $(SETUP)
	$(BIN)/python -m zensical build --strict --clean

bench: SYSTEM_PACKAGES := $(BENCH_PACKAGES)
bench: $(BENCH_SETUP) system-packages
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

clean:
	rm -rf .cache .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist site
	rm -rf --one-file-system .pythons
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
