# Each target makes .venv from nothing; all that a machine needs is python >= 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-slow lint bench clean

demo: .venv/ready
	$(BIN)/maskworld demo -o demo

test: .venv/ready
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: .venv/ready
	$(BIN)/python -m pytest -n 2 -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/ready
	$(BIN)/python benchmarks/mcvd.py --json

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "maskworld needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv demo .pytest_cache .ruff_cache .hypothesis
