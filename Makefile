PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
VERSION := import sys, pip; print(*sys.version_info[:2], sep=".")
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

.PHONY: help setup explore test check verify results train bench chaos

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(STAMP)  ## the environment in .venv; nothing if it is there

# A .venv that is broken, or of another Python than the one that was asked for, is made anew.
$(STAMP): pyproject.toml constraints.txt
	@has=$$($(BIN)/python -c '$(VERSION)' 2>/dev/null); asked=$$($(PYTHON) -c '$(VERSION)' 2>/dev/null); \
	case "$(origin PYTHON) $$has" in "file 3."* | *" $$asked") test -n "$$has" && exit 0;; esac; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "Python 3.11 or later is needed, with venv and pip; $(PYTHON) is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
	"Name another one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }; \
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[app,dev]'
	touch $@

ifneq ($(origin PYTHON),file)
$(STAMP): FORCE
FORCE:
endif

explore: setup  ## the explorer in a browser, on the shipped checkpoints
	$(BIN)/streamlit run apps/explorer.py

test: setup  ## every test
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -q

check: setup  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

verify: setup  ## the claims about every shipped checkpoint and landscape
	$(BIN)/ar-interp verify --seed 0 --jobs 2
	$(BIN)/ar-interp landscapes --seed 0 --jobs 2

results: setup  ## the claims measured anew, every table that states them, the numbers of the story
	$(BIN)/python docs/results.py
	PYTHONPATH=apps $(BIN)/python -m storyboard

train: setup  ## every shipped checkpoint, from scratch
	$(BIN)/ar-interp train all --again --jobs 2

bench: setup  ## the measured tables of README and docs that are not claims
	$(BIN)/python benchmarks/battery.py
	$(BIN)/python benchmarks/ensemble.py
	$(BIN)/python benchmarks/interventions.py
	$(BIN)/python benchmarks/landscape.py
	$(BIN)/python benchmarks/long.py
	$(BIN)/python benchmarks/training.py

chaos: setup  ## writers, trainings and sweeps are killed at random: nothing may be lost, no bit change (some minutes)
	$(BIN)/python tests/chaos.py
	$(BIN)/python tests/chaos_sweeps.py
