# `make demo` and `make test` set up what they need; nothing else has to be done before.
VENV := .venv
SERIAL := .venv-serial
BIN := $(VENV)/bin
# Test files at a time, for two cores: many wait for ranks of their own.  In their order, long ones
# early: sorted by their number of tests the long ones would come last.
TESTERS ?= 3
# Failed tests are tried again, and shown: hundreds of processes start and die on a shared machine.
RERUNS := --reruns 2 --max-suite-reruns 8 --rerun-show-tracebacks
export LSENGINE_SERIAL_ENV := $(abspath $(SERIAL))

.PHONY: help setup setup-serial demo studies gallery test test-slow test-cluster check bench soak image clean
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

gallery: setup ## every kind of picture, from surfaces at digits size, into docs/gallery
	@ENVIRONMENT=$(VENV) launch/gallery.sh

test: setup setup-serial check ## all checks, and all tests but the slow ones
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(RERUNS)

test-slow: setup setup-serial ## the tests that take minutes
	$(BIN)/pytest -m slow

test-cluster: setup setup-serial ## more tests of SLURM, launchers and faults (root, Debian)
	$(BIN)/pytest -m cluster $(RERUNS)

check: setup ## style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup ## measure this machine's peak, cells against it, and the engine
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit; done

soak: setup ## kill runs at random, 300 times
	$(BIN)/python benchmarks/soak_kills.py

image: ## the CPU container image, without an engine: build it and run the demo in it (root, buildah)
	docker/image.sh $(IMAGE_FLAGS)

clean: ## remove both environments and what the tools left
	rm -rf $(VENV) $(SERIAL) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
