# Needs make and Python 3.11 or 3.12. Everything else is installed into .venv.
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
INSTALLED_ALL := $(VENV)/installed-all
COMPOSE ?= docker compose
SUITABLE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

.PHONY: help docs install demo up compose-demo test test-fast test-faults fuzz audit lint bench bench-fusion bench-exactness bench-gpu \
	bench-pairing bench-days bench-planning bench-staging bench-validation bench-rescue bench-warehouse bench-growth bench-explorer bench-airflow screenshots
.DEFAULT_GOAL := help

help:
	@echo "make demo             sample shards, an Airflow backfill over three days, fused captions (a few minutes)"
	@echo "make up               Airflow with its UI on the demo's data, until Ctrl-C"
	@echo "make test             all tests; make test ARGS='tests/pairing -x' runs some of them"
	@echo "make test-fast        only fast tests, without torchrun, Airflow, browsers or containers"
	@echo "make test-faults      break 200 runs at random, and retry each (about an hour); ARGS='--help' lists options"
	@echo "make fuzz             random inputs for file readers, prompt, rules, …: ten minutes each, or ARGS='--minutes 1'"
	@echo "make audit            look for known vulnerabilities in the pinned packages (needs access to PyPI)"
	@echo "make lint             ruff and mypy"
	@echo "make bench            run bench-fusion, -exactness, -pairing, -days, -planning, -staging, -validation,"
	@echo "                      -rescue, -warehouse, -explorer; ARGS='--help' lists options"
	@echo "make bench-airflow    one Airflow run of 1,024 units, without a model (15 minutes); see docs/benchmarks.md"
	@echo "make bench-growth     loads into a warehouse of up to 20 million rows (an hour, 40 GB of disk)"
	@echo "make bench-gpu        the engine on one GPU (six minutes); see docs/benchmarks.md"
	@echo "make compose-demo     the demo in containers with Celery workers; see docs/operations.md"
	@echo "make docs             write docs/settings.md from the descriptions of the settings"
	@echo "make screenshots      take the pictures of docs/images again (needs Chromium)"
	@echo "make install          install all packages into $(VENV); the other targets install what they need"

demo: $(INSTALLED)
	@$(BIN)/capsfusion demo

up: $(INSTALLED)
	@$(BIN)/capsfusion up

# Needs a container engine and docker compose, not Python. Leaves the stack running: docker compose down ends it.
compose-demo:
	@docker/make-env.sh
	@$(COMPOSE) build
	@$(COMPOSE) up -d
	@$(COMPOSE) run --rm demo

# Three processes: one runs Airflow's tests, which take longest and mostly wait (see tests/conftest.py).
test: install
	@$(BIN)/pytest $(or $(ARGS),-n 3 --dist loadfile --no-loadscope-reorder)

test-fast: install
	@$(BIN)/pytest $(or $(ARGS),-n 2 --dist loadfile --no-loadscope-reorder) -m "not slow"

test-faults: install
	@$(BIN)/python -m tests.faults $(ARGS)

fuzz: install
	@$(BIN)/python -m tests.fuzz $(ARGS)

# pip-audit has its own environment, so that its packages are not among those that it checks.
audit:
	@test -x .venv-audit/bin/pip-audit || { python3 -m venv .venv-audit && .venv-audit/bin/pip install --quiet pip-audit; }
	@.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip $(ARGS)

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

install: $(INSTALLED_ALL)

# A sed script for pip's output. It shows only downloads of 10 MB and more, and that pip begins to unpack packages.
PIP_PROGRESS := s/^ *((Downloading|Using cached) .*\(([0-9]{2,}(\.[0-9]+)? MB|[0-9.]+ GB)\))/  \1/p; \
	s/^Installing collected.*/  All packages are downloaded; unpacking them into $(VENV) takes about a minute/p

# The demo does not need all packages; tests, benchmarks and lint do. Each target runs again only if pyproject.toml
# or constraints.txt has changed. Modules are compiled on all cores, because pip would use only one core. A few files
# cannot be compiled, for example templates. They are ignored, as pip does. The demo imports only a few modules of the
# packages in NOT_COMPILED; Python compiles these modules when it imports them.
$(INSTALLED): EXTRAS := fusion,airflow
$(INSTALLED): GIGABYTES := 2
$(INSTALLED): NOT_COMPILED := -x '/site-packages/(transformers|sympy|networkx|pip|setuptools)/|/torch/(_inductor|testing)/'
$(INSTALLED_ALL): EXTRAS := fusion,airflow,dev
$(INSTALLED_ALL): GIGABYTES := 3
$(INSTALLED) $(INSTALLED_ALL): pyproject.toml constraints.txt
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
	echo "Installing packages into $(VENV): once, 1 to 5 minutes, $(GIGABYTES) GB on disk (more if torch comes with CUDA)."; \
	started=$$(date +%s); log=$$(mktemp); \
	{ while sleep 5 && kill -0 $$$$; do \
		echo "  $$(( $$(date +%s) - started )) s: $$(du -sm $(VENV) | cut -f1) MB in $(VENV)"; \
	done; } 2>/dev/null & ticker=$$!; \
	trap "kill $$ticker; rm -f $$log" EXIT; trap 'echo "Interrupted: run make again to go on." >&2; exit 130' INT; \
	$(BIN)/python -c 'import pip; $(SUITABLE)' 2>/dev/null || $$found -m venv --clear $(VENV) 2>$$log \
		|| { cat $$log >&2; exit 2; }; \
	rm -f $(VENV)/failed; \
	{ $(BIN)/pip install --disable-pip-version-check --progress-bar off --no-compile -c constraints.txt -e '.[$(EXTRAS)]' \
		|| touch $(VENV)/failed; } | sed -unE '$(PIP_PROGRESS)'; \
	if test -e $(VENV)/failed; then echo "pip has failed for the reason above. Solve this problem, then run make again." >&2; exit 2; fi; \
	$(BIN)/python -m compileall -qq -j 0 $(NOT_COMPILED) $(VENV)/lib || true; \
	echo "Installed in $$(( $$(date +%s) - started )) s."; \
	touch $@ $(INSTALLED)

bench: bench-fusion bench-exactness bench-pairing bench-days bench-planning bench-staging bench-validation bench-rescue \
	bench-warehouse bench-explorer

bench-fusion: install
	@$(BIN)/python -m benchmarks.fusion $(ARGS)

bench-exactness: install
	@$(BIN)/python -m benchmarks.exactness $(ARGS)

bench-airflow: install
	@$(BIN)/python -m benchmarks.airflow_units $(ARGS)

bench-gpu: install
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-days: install
	@$(BIN)/python -m benchmarks.days $(ARGS)

bench-pairing: install
	@$(BIN)/python -m benchmarks.pairing $(ARGS)

bench-planning: install
	@$(BIN)/python -m benchmarks.planning $(ARGS)

bench-staging: install
	@$(BIN)/python -m benchmarks.staging $(ARGS)

bench-validation: install
	@$(BIN)/python -m benchmarks.validation $(ARGS)

bench-rescue: install
	@$(BIN)/python -m benchmarks.rescue $(ARGS)

bench-warehouse: install
	@$(BIN)/python -m benchmarks.warehouse $(ARGS)

bench-growth: install
	@$(BIN)/python -m benchmarks.growth $(ARGS)

bench-explorer: install
	@$(BIN)/python -m benchmarks.explorer $(ARGS)

docs: install
	@$(BIN)/capsfusion settings --markdown > docs/settings.md

screenshots: install
	@CAPSFUSION_SCREENSHOTS=docs/images $(BIN)/pytest -q tests/airflow/test_captions_view.py
