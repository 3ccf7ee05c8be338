# One command per habit; CI runs `make test` and nothing else.
#
#   PYTHON=python3.12 make setup     another interpreter
#   make test ARGS="-k merge -x"     arguments for pytest, a benchmark or the demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCHMARKS := startup cli dataset decode forms train original

.DEFAULT_GOAL := help
.PHONY: help setup demo test durations test-long sanitize lint format types proto bench clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 11

setup: $(READY) ## make .venv with the tested versions of everything (about a minute; nothing to do the second time)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "smolora needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; name another: PYTHON=python3.12 make setup")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[daemon]' --group dev
	@touch $@

demo: setup ## the whole job on the starter model: prepare, train, merge, load, generate
	$(BIN)/python -m examples.demo $(ARGS)

test: setup ## every test, the ones on the real model included
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

durations: setup ## measure how long each test file takes, by which `make test` shares them out
	$(MAKE) test ARGS=--write-durations

test-long: setup ## the tests that take minutes, and all examples of Hypothesis, which CI does not run, and `sanitize`
	$(BIN)/python -m pytest -m 'long or hypothesis' --hypothesis-profile=long $(ARGS)
	$(if $(ARGS),,$(MAKE) sanitize)

sanitize: setup ## the native code's tests under AddressSanitizer and UBSan (minutes; gcc or clang with their libraries)
	$(BIN)/python scripts/sanitize.py $(ARGS)

lint: setup types ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup ## mypy alone
	$(BIN)/mypy

proto: ## write the generated code anew from proto/
	scripts/proto.sh

bench: setup ## the benchmarks of speed: one JSON line each (ARGS=--quick for a rough answer)
	@for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS) || exit 1; done

clean: ## remove what the other commands made in this folder
	rm -rf $(VENV) $(VENV)-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
