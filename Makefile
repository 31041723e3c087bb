PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup explore test check verify results train bench

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## the environment in .venv; nothing if it is there

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[app,dev]'
	touch $@

explore: setup  ## the explorer in a browser, on the shipped checkpoints
	$(BIN)/streamlit run apps/explorer.py

test: setup  ## every test
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

check: setup  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

verify: setup  ## the claims about every shipped checkpoint
	$(BIN)/ar-interp verify --seed 0 --jobs 2

results: setup  ## the claims measured anew, and every table that states them
	$(BIN)/python docs/results.py

train: setup  ## every shipped checkpoint, from scratch
	$(BIN)/ar-interp train all --jobs 2

bench: setup  ## the measured tables of the README that are not claims
	$(BIN)/python benchmarks/battery.py
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/interventions.py
	$(BIN)/python benchmarks/landscape.py
	$(BIN)/python benchmarks/training.py
