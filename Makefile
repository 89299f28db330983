# `make demo` and `make test` set up what they need; nothing else has to be done before.
VENV := .venv
SERIAL := .venv-serial
BIN := $(VENV)/bin
export LSENGINE_SERIAL_ENV := $(abspath $(SERIAL))

.PHONY: help setup setup-serial demo studies test test-slow check bench clean
.NOTPARALLEL:

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' Makefile

setup: ## .venv: parallel HDF5 and Open MPI where the machine allows
	@launch/setup.sh $(VENV)

setup-serial: ## .venv-serial: the environment made from pip alone
	@launch/setup.sh --serial $(SERIAL)

demo: setup ## train a small network, evaluate its surface, draw it
	@launch/demo.sh $(VENV)

studies: setup ## the paper's studies at digits size; STUDIES="skip seeds" makes some
	@ENVIRONMENT=$(VENV) launch/studies.sh $(STUDIES)

test: setup setup-serial check ## all checks, and all tests but the slow ones
	$(BIN)/pytest

test-slow: setup setup-serial ## the tests that take minutes
	$(BIN)/pytest -m slow

check: setup ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup ## measure the loop, the dispatch and the writing
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit; done

clean: ## remove both environments and what the tools left
	rm -rf $(VENV) $(SERIAL) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
