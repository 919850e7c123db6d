# `make demo` shows what this is, `make test` checks it, `make soak` tries to break it for hours. They need this clone
# and Python 3.11 or newer, nothing else.
#
# torch brings torchrun and nanodist's groups. Its CPU build is enough, and on Linux far smaller than the default one:
# set PIP_EXTRA_INDEX_URL to the CPU index that pytorch.org names. `make demo TORCH=` does without torch: the ranks
# are plain processes then.

PYTHON ?= python3
TORCH ?= torch==2.13.0 numpy # numpy, because torch warns where it is missing
BIN = .venv/bin

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore

.PHONY: demo test soak

demo: .venv/demo
	@$(BIN)/python examples/demo.py

# pytest hands out small portions, because a few files take minutes.
test: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --maxschedchunk 2

# The faults of the test suite again, with every error at every call, a thousand kills and all that chance may bring.
soak: .venv/test
	NANOCACHE_SOAK=1 $(BIN)/python -m pytest -o timeout=3600 tests/faults tests/retention

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
