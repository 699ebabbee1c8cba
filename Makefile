# Two commands: `make train` and `make test`.  Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export WANDB_SILENT := true
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help setup train test lint typecheck docs audit bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(STAMP)  ## create .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

train: $(STAMP)  ## train the RGBA VAE on the sample clips (about ten minutes on two cores)
	$(BIN)/python train.py stage=vae

test: $(STAMP) lint typecheck  ## lint, types and all tests, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(STAMP)  ## style, imports, and that the rooms know only those below them
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

typecheck: $(STAMP)  ## mypy
	$(BIN)/mypy

docs: $(STAMP)  ## build the documentation site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

audit: $(STAMP)  ## compare the pinned packages with known weaknesses, where the service can be reached
	.ci/audit

bench: $(STAMP)  ## measure speed and memory; results go to benchmarks/results
	$(BIN)/python -m benchmarks.vae_step

clean:  ## remove runs and caches, keep .venv
	rm -rf runs multirun outputs site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
