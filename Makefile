# Every target sets up what it needs in .venv on a machine with Python 3.11 or later; a second run installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format bench docs clean help

help:
	@echo "make demo    compare every anomaly detector on built-in photographs, with a report"
	@echo "make test    run the tests"
	@echo "make lint    check format, lint and types"
	@echo "make format  put the code in the house format"
	@echo "make bench   measure speed and memory, into results/bench"
	@echo "make docs    build the documentation site into site"
	@echo "make clean   remove the environment and caches"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras, newer than pyproject.toml once it is installed.
$(VENV)/.installed-core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/.installed-core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-core
	$(BIN)/pinakes compare anomaly --data 'textures?size=64' --methods all --seeds 2 --out runs/demo

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: $(VENV)/.installed-lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-peers
	$(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "site/index.html, or with search: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site"

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
