# Every target sets the project up first if that was not done yet. `make setup` leaves the program at .venv/bin/evac.
.DEFAULT_GOAL := help
SHELL := /bin/bash

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready
# Outside a terminal uv keeps quiet about progress; it never asks anything.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
# The distribution's Python where it is new enough: it is built with profiles, and a third faster than one without.
# UV_PYTHON names another.
SYSTEM_PYTHON := $(shell /usr/bin/python3 -c 'import sys; print(sys.executable if sys.version_info >= (3, 11) else "")' 2>/dev/null)
ON_PYTHON := $(if $(UV_PYTHON),,$(if $(SYSTEM_PYTHON),--python $(SYSTEM_PYTHON)))
# Modules compiled to bytecode are kept whatever the machine says: tests start a thousand programs.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help packages setup demo lab test lint format types imports wheelhouse try-wheel docs docs-pages docs-check front-pictures pictures bench bench-run bench-lab bench-boot bench-serve bench-referees torture torture-lab ci clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(READY) ## install everything into .venv and compile the kernels

# uv comes from wherever the machine has it; else it goes into a private folder, so the system stays as it was.
.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet uv

$(INSTALLED): pyproject.toml lab/pyproject.toml uv.lock | $(filter .tools/bin/uv,$(UV))
	$(UV) sync --frozen $(ON_PYTHON)
	@touch $@

packages: $(INSTALLED) ## install what Python needs into .venv, and compile nothing

$(READY): $(INSTALLED) src/evac/app/warm.py
	@echo "Compiling the kernels (once) ..."
	@$(PYTHON) -m evac.app.warm
	@touch $@

demo: $(READY) ## October 2022 again, from files to a report, in under two minutes
	$(PYTHON) -m evac.app.demo.story

lab: $(READY) ## three real sites on this machine: up, one burns and comes back, report, down
	scripts/lab.sh

# Half as many again as there are cores: many tests wait for real servers.
WORKERS ?= $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))
PYTEST := $(PYTHON) -m pytest --dist worksteal --durations=25
# Tests that call no kernel, and mostly wait: CI runs them (PART=first) while the kernels compile. Tests that only compute
# (PART=third) run beside them as soon as the kernels are there, and what is left (PART=second) when both cores are free.
WITHOUT_KERNELS := tests/contract tests/unit/watch $(sort $(wildcard tests/lab/test_fleet_*.py tests/sim/test_real_processes*.py))
COMPUTING := $(addprefix tests/unit/,audit derive estate planning truth verify)
test: $(if $(filter first,$(PART)),$(INSTALLED),$(READY)) ## run all tests
	$(PYTEST) -n $(WORKERS) $(if $(PART),$(TESTS_$(PART)))
TESTS_first = $(WITHOUT_KERNELS)
TESTS_second = $(patsubst %,--ignore=%,$(WITHOUT_KERNELS) $(COMPUTING))
TESTS_third = $(COMPUTING)

lint: $(INSTALLED) ## check style and formatting
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(INSTALLED) ## fix what lint can fix by itself
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(INSTALLED) ## check the types of evac and its lab
	$(VENV)/bin/mypy --strict src lab/src

imports: $(INSTALLED) ## check that no room imports upwards
	$(VENV)/bin/lint-imports

wheelhouse: $(INSTALLED) ## evac and all it needs as wheels, for a bundle (DIR=folder)
	@UV="$(UV)" scripts/wheelhouse.sh "$(DIR)"

try-wheel: $(INSTALLED) ## install the built wheel into empty environments and try every command there
	@UV="$(UV)" scripts/try_wheel.sh

docs: $(INSTALLED) ## build the documentation; a warning is an error
	$(VENV)/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

docs-check: $(READY) ## run every command the documentation shows, and compare generated pages
	$(PYTHON) -m pytest tests/docs

docs-pages: $(READY) ## write the pages that come from the program itself (the pictures need the program dot)
	$(PYTHON) scripts/cli_reference.py
	$(PYTHON) scripts/run_diagram.py
	$(PYTHON) scripts/openapi.py
	$(PYTHON) scripts/reference_pages.py docs/reference

front-pictures: $(READY) ## play the demo and take the pictures of the README from it (needs Chromium)
	$(PYTHON) scripts/front_pictures.py

pictures: $(READY) ## play the demo and keep a picture of every page in build/pictures (needs Chromium)
	$(PYTHON) scripts/pictures.py build/pictures

bench: $(READY) ## measure plans, and referees beside them (FULL=1: the largest estate too)
	@$(MAKE) --no-print-directory --keep-going bench-referees || echo "Not every referee is installed: bench says which it leaves out."
	$(PYTHON) -m bench

bench-run: $(READY) .venv-bench/.ready ## measure the engine, and others beside it (ARGS="--steps 10000 --json FILE")
	$(PYTHON) -m bench run $(ARGS)

bench-lab: $(READY) ## burn the lab again and again, Patroni beside it (FULL=1: 20 fires; ARGS="--json FILE")
	$(PYTHON) -m bench lab $(ARGS)

SERVERS ?= 32000
bench-boot: $(READY) .venv-bench/.ready ## measure the cold start on a simulated fleet (SERVERS=32000 ARGS="--json FILE")
	$(PYTHON) -m bench boot --servers $(SERVERS) $(ARGS)

bench-serve: $(READY) ## measure the war room at 90,000 servers (ARGS="--servers 9000 --json FILE")
	$(PYTHON) -m bench serve $(ARGS)

# The referees (see bench/requirements.txt) live in an environment of their own and never in ours.
bench-referees: .venv-bench/.ready .venv-rebalancer/.ready ## install the referees that bench compares with
.venv-bench/.ready: bench/requirements.txt | $(filter .tools/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing $(ON_PYTHON) .venv-bench
	$(UV) pip install --quiet --python .venv-bench/bin/python -r $<
	@touch $@

# Meta's Rebalancer has wheels for Python 3.12 only.
.venv-rebalancer/.ready: bench/rebalancer.txt | $(filter .tools/bin/uv,$(UV))
	$(UV) venv --quiet --allow-existing --python 3.12 .venv-rebalancer
	$(UV) pip install --quiet --python .venv-rebalancer/bin/python -r $<
	@touch $@

FIRES ?= 10
SEEDS ?= 10000
torture: $(READY) ## play simulated fires with every fault (SEEDS=100000)
	$(PYTHON) -m tests.sim.torture --seeds $(SEEDS)

torture-lab: $(READY) ## burn a lab of real servers again and again, with the way home between (FIRES=10)
	$(PYTHON) -m evac_lab.torture --fires $(FIRES)

ci: ## everything that must pass before a change goes in
	.ci/run

clean: ## remove what was built, the environment included
	rm -rf $(VENV) .venv-bench .venv-rebalancer .tools docs/_build demo-output .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find src lab tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +
