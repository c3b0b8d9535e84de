# The two commands: `make quickstart` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
BIN := $(VENV)/bin
# Idle OpenMP threads that spin cost up to 6x on a busy machine.
export OMP_WAIT_POLICY := PASSIVE
export GOMP_SPINCOUNT := 0
# Where somebody turns bytecode off, every process of the tests compiles all of Sonant, and rewrites all tests, again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test unit recipe ray browser parity-vllm check setup setup-dev bench clean

quickstart: setup  ## make the tiny world's corpora, train, measure, answer a spoken question
	$(BIN)/sonant quickstart

test: setup-dev check  ## everything that guards a change
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q
	$(BIN)/pytest -q -m recipe --timeout 600

unit: setup-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q

recipe: setup-dev
	$(BIN)/pytest -q -m recipe --timeout 600

ray: setup-dev  ## install Ray (335 MB) and run the example of docs/building.md on this machine
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[ray]'
	RAY_USAGE_STATS_ENABLED=0 $(BIN)/pytest -q -m ray --timeout 300

browser: setup-dev  ## drive the page with Debian's Chromium (apt install chromium) and a microphone that is a file
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/pytest -q -m browser --timeout 300

parity-vllm: setup-dev $(VLLM_VENV)/.installed  ## does vLLM (2 GB, a venv of its own) say what we say? minutes
	VLLM_PYTHON=$(abspath $(VLLM_VENV))/bin/python $(BIN)/pytest -q -m vllm tests/parity --timeout 2400

$(VLLM_VENV)/.installed: constraints-vllm.txt pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --no-deps --requirement constraints-vllm.txt
	$(VLLM_VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

check: setup-dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit(f"Sonant needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; set PYTHON=python3.11" if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[synth,eval,serve]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[synth,eval,speech-eval,data,api,serve,dev]'
	touch $(VENV)/.installed $@

bench: setup  ## every figure we promise, as asked / measured
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(VLLM_VENV) runs build *.egg-info .mypy_cache .pytest_cache .ruff_cache
