# Needs make and Python 3.11 or 3.12; everything else goes into .venv.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
COMPOSE ?= docker compose
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

.PHONY: help install demo up compose-demo test test-fast test-faults fuzz audit lint bench bench-fusion bench-exactness bench-gpu \
	bench-pairing bench-validation bench-warehouse bench-explorer screenshots
.DEFAULT_GOAL := help

help:
	@echo "make demo     sample shards, an Airflow backfill over three days, fused captions (a few minutes)"
	@echo "make up       Airflow and its UI on the demo's data, until Ctrl-C"
	@echo "make test     the whole test suite; make test ARGS='tests/pairing -x' for a part"
	@echo "make test-fast  the tests that need no torchrun, Airflow, browser or container"
	@echo "make test-faults  200 runs broken at random, each retried once (an hour or so); ARGS='--help' tells more"
	@echo "make fuzz     readers, prompt and rules on inputs that nobody wrote, ten minutes each; ARGS='--minutes 1'"
	@echo "make audit    known vulnerabilities of the pinned packages (asks PyPI)"
	@echo "make lint     ruff and mypy"
	@echo "make bench    all benchmarks: bench-fusion, -exactness, -pairing, -validation, -warehouse, -explorer;"
	@echo "              ARGS='--help' tells more"
	@echo "make bench-gpu  the engine on one card, in five minutes: docs/benchmarks.md"
	@echo "make compose-demo  the demo on containers, with Celery workers: docs/operations.md"
	@echo "make screenshots  the pictures of docs/images, anew (needs Chromium)"
	@echo "make install  all packages into $(VENV); the others do it themselves"

demo: install
	@$(BIN)/capsfusion demo

up: install
	@$(BIN)/capsfusion up

# Needs an engine and docker compose, not Python. Ends with the stack running: docker compose down ends it.
compose-demo:
	@docker/make-env.sh
	@$(COMPOSE) build
	@$(COMPOSE) up -d
	@$(COMPOSE) run --rm demo

# Two at a time: Airflow's tests, which are the longest and mostly wait, and all others (tests/conftest.py).
test: install
	@$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder)

test-fast: install
	@$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder) -m "not slow"

test-faults: install
	@$(BIN)/python -m tests.faults $(ARGS)

fuzz: install
	@$(BIN)/python -m tests.fuzz $(ARGS)

# In an environment of its own: nothing here depends on it, and its packages are not those that it looks at.
audit:
	@test -x .venv-audit/bin/pip-audit || { python3 -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit; }
	@.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip $(ARGS)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

install: $(INSTALLED)

# Again only when what is to be installed has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@set -e; found=; \
	for python in $(PYTHON) python3.11 python3.12 python3 python; do \
		if $$python -c '$(SUITABLE)' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or 3.12 is needed, found $$(python3 --version 2>/dev/null || echo none):" \
			"install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; \
	fi; \
	if ! $$found -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$($$found --version) has no venv module: install it (Debian and Ubuntu: apt install python3-venv)" >&2; \
		exit 2; \
	fi; \
	$(BIN)/python -c 'import pip; $(SUITABLE)' 2>/dev/null || $$found -m venv --clear $(VENV); \
	echo "installing packages into $(VENV) (once, a few minutes)"; \
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fusion,airflow,dev]'; \
	touch $@

bench: bench-fusion bench-exactness bench-pairing bench-validation bench-warehouse bench-explorer

bench-fusion: install
	@$(BIN)/python -m benchmarks.fusion $(ARGS)

bench-exactness: install
	@$(BIN)/python -m benchmarks.exactness $(ARGS)

bench-gpu: install
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-pairing: install
	@$(BIN)/python -m benchmarks.pairing $(ARGS)

bench-validation: install
	@$(BIN)/python -m benchmarks.validation $(ARGS)

bench-warehouse: install
	@$(BIN)/python -m benchmarks.warehouse $(ARGS)

bench-explorer: install
	@$(BIN)/python -m benchmarks.explorer $(ARGS)

screenshots: install
	@CAPSFUSION_SCREENSHOTS=docs/images $(BIN)/pytest -q tests/airflow/test_captions_view.py
