# Everything runs in .venv, which is built on first use and again when the dependencies change.
#   make PYTHON=python3.12 test     with another Python
PYTHON ?= python3
PROTOCOL ?= quick
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The pins were made on Python 3.11; newer and older ones take what the lower bounds of pyproject.toml allow.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info[:2] == (3, 11) else "")')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book test colab lint bench clean venv browser pins readme

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s  %s\n", $$1, $$2}' Makefile

book: $(READY) ## run the chapters (PROTOCOL=quick) and build the pages into _build/html
	$(BIN)/kdrepro book execute --protocol $(PROTOCOL)
	$(BIN)/kdrepro book build

test: $(READY) ## run all tests
	$(BIN)/python -m pytest

colab: $(READY) ## run the chapters as Colab does, and the package from its wheel
	$(BIN)/python -m pytest -n 0 tests/test_colab.py tests/test_install.py

lint: $(READY) ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## measure what the engine costs, and how fast it trains and decodes
	missed=0; for file in bench/*.py; do $(BIN)/python "$$file" || missed=1; done; exit $$missed

browser: $(READY) ## fetch a Chromium for the browser tests, if the system has none
	$(BIN)/playwright install chromium

venv: $(READY) ## only build the environment

pins: $(READY) ## write constraints.txt from what is installed in .venv
	{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --all --exclude-editable \
	  | grep -viE '^(nvidia-|cuda-|triton|pip=)'; } > constraints.txt.new
	mv constraints.txt.new constraints.txt
	touch $(READY)

readme: $(READY) ## write the verdicts of the recorded rows into README.md
	$(BIN)/python -c 'from kdrepro import ledger, tables; print(tables.readme_table(ledger.recorded()).strip())' \
	  > README.verdicts
	sed -e '/<!-- verdicts:start/r README.verdicts' -e '/<!-- verdicts:start/,/<!-- verdicts:end/{//!d;}' README.md > README.new
	mv README.new README.md
	rm README.verdicts

clean: ## remove what was built; rows in ./runs stay
	rm -rf $(VENV) _build build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there keeps its Python, so another one that is asked for is no silent wish.
ifeq ($(origin PYTHON)$(wildcard $(READY)),command line$(READY))
ifneq ($(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:2])'),$(shell $(BIN)/python -c 'import sys; print(*sys.version_info[:2])'))
$(error $(VENV) was built with another Python than $(PYTHON); make clean removes it)
endif
endif

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(CONSTRAINTS) -e ".[book,dev]"
	@touch $(READY)
