# `make demo` shows what this is, `make test` checks it. Both need this clone and Python 3.11 or newer, nothing else.
#
# torch brings torchrun and nanodist's groups. Its CPU build is enough, and on Linux far smaller than the default one:
# set PIP_EXTRA_INDEX_URL to the CPU index that pytorch.org names. `make demo TORCH=` does without torch: the ranks
# are plain processes then.

PYTHON ?= python3
TORCH ?= torch==2.13.0 numpy # numpy, because torch warns where it is missing
BIN = .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

.PHONY: demo test

demo: .venv/demo
	@$(BIN)/python examples/demo.py

test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

.venv/pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'pip>=25.1' # older ones know no --group
	@touch $@

.venv/demo: .venv/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . $(TORCH)
	@touch $@

.venv/test: .venv/pip pyproject.toml
	$(BIN)/python -m pip install --quiet --editable . --group test
	@touch $@
