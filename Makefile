# `make demo` and `make test` are all the set-up there is: each makes .venv first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-all lint bench docs release clean
help:
	@echo "make demo      train EI on generated images, print a table, write figures (minutes)"
	@echo "make test      run the tests, but for those marked slow (minutes)"
	@echo "make test-all  run all tests"
	@echo "make lint      check style and types"
	@echo "make bench     measure speed beside peers (minutes; installs deepinv and astra-toolbox)"
	@echo "make docs      build the documentation site, docs/_build/html (minutes)"
	@echo "make release   build wheel and source archive in dist/, and check them"
	@echo "make clean     remove .venv and caches"

demo: $(VENV)/installed-run
	$(BIN)/python get_started.py

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 4

test-all: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/run.py

# No network is needed once the environment is there; warnings are errors.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

release: $(VENV)/installed-release
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python >= 3.10 is needed; name another one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "python3-venv is missing (Debian and Ubuntu leave it out): apt install python3-venv" >&2; exit 2; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

# torch and torchvision must come from one call of pip, or their builds may not match.
# installed-run has the dependencies alone, installed-EXTRA those of an extra of pyproject.toml as well.
$(VENV)/installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing the project and its dependencies into $(VENV) (torch is large: minutes on a first run) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".$(if $(filter-out run,$*),[$*])"
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist docs/_build docs/auto_examples docs/reference/api *.egg-info
