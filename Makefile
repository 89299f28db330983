# `make demo` and `make test` set up what they need.
VENV := .venv
SERIAL := .venv-serial
BIN := $(VENV)/bin
# Test files at a time, for two cores: many tests only wait for their own ranks.  The order of the
# files is kept, because it starts long ones early.  Sorted by number of tests they would be last.
TESTERS ?= 3
# Failed tests are tried again, and listed: hundreds of processes start and end on a busy machine.
RERUNS := --reruns 2 --max-suite-reruns 8 --rerun-show-tracebacks
# A machine with a card may have no set-up: its own Python does, where there is no environment.
GPU_PYTHON := $(or $(PYTHON),$(wildcard $(BIN)/python),python3)
export LSENGINE_SERIAL_ENV := $(abspath $(SERIAL))

.PHONY: help setup setup-serial demo studies fashion mnist reproduction reproduction-train gallery transformers test test-slow test-cluster check bench gpu-check soak fuzz docs reference docs-links pythons image clean
.NOTPARALLEL:

help: ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1 - /p' Makefile

setup: ## make .venv: parallel HDF5 and Open MPI where the machine allows
	@launch/setup.sh $(VENV)

setup-serial: ## make .venv-serial: an environment from pip alone
	@launch/setup.sh --serial $(SERIAL)

demo: setup ## train a small network, evaluate its surface, draw it
	@launch/demo.sh $(VENV)

studies: setup ## make the paper's studies at digits size; STUDIES="skip seeds" makes some
	@ENVIRONMENT=$(VENV) launch/studies.sh $(STUDIES)

fashion: setup ## skip connections on Fashion-MNIST, from nothing to a figure: 12 minutes on two busy cores
	@ENVIRONMENT=$(VENV) launch/mnist.sh fashion

mnist: setup ## the same on MNIST in the same time; it is downloaded, or MNIST=PATH names a folder or an .npz file with it
	@ENVIRONMENT=$(VENV) launch/mnist.sh mnist

reproduction: setup ## draw docs/REPRODUCTION.md's figures from kept surfaces and check its claims: seconds each
	@ENVIRONMENT=$(VENV) launch/reproduction.sh draw check

reproduction-train: setup ## train and evaluate all of it on CIFAR-10, resumably: about a day of two cores (estimated); CIFAR10=FILE, STUDIES
	@ENVIRONMENT=$(VENV) launch/reproduction.sh train evaluate keep draw check

gallery: setup ## draw every kind of picture, from surfaces at digits size, into docs/gallery
	@ENVIRONMENT=$(VENV) launch/gallery.sh

transformers: setup ## train small language models and draw the figures of docs/TRANSFORMERS.md: about half an hour
	@ENVIRONMENT=$(VENV) launch/transformers.sh

test: setup setup-serial check ## run all checks, and all tests but slow and cluster ones
	$(BIN)/pytest -n $(TESTERS) --dist loadfile --no-loadscope-reorder $(RERUNS)

test-slow: setup setup-serial ## run the tests that take minutes each
	$(BIN)/pytest -m slow

test-cluster: setup setup-serial ## run more tests of SLURM, launchers and faults (root, Debian)
	$(BIN)/pytest -m cluster $(RERUNS)

check: setup ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup ## run all benchmarks
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit; done

gpu-check: ## prove and time everything on a card in six minutes: no set-up; PYTHON, WHEELS, OUT, GPU_FLAGS
	$(GPU_PYTHON) benchmarks/gpu_check.py $(GPU_FLAGS)

soak: setup ## kill runs at random moments, 300 times
	$(BIN)/python benchmarks/soak_kills.py

fuzz: setup ## try 100,000 damaged and hostile files and jobs, confined: hours; a killed run goes on
	$(BIN)/python -m tests.fuzz --results fuzz.jsonl

reference: setup ## write job keys and the command line into docs/reference, from the code
	PYTHONPATH=. $(BIN)/python docs/generated.py

docs: setup ## build the site of the documentation: build/docs/index.html
	@launch/docs.sh $(VENV)

docs-links: setup ## look whether the links to other sites lead anywhere (network)
	@launch/docs.sh $(VENV) linkcheck

pythons: ## run a core set of tests on several Pythons; PYTHONS="3.12 /path/to/python3.13", TORCH_INDEX
	@launch/pythons.sh $(PYTHONS)

image: ## build the CPU container image without an engine, and run the demo in it (root, buildah)
	docker/image.sh $(IMAGE_FLAGS)

clean: ## remove all environments and the caches of the tools
	rm -rf $(VENV) $(SERIAL) .venv-docs .venv-[0-9]* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
