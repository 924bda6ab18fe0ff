# make reproduce   install, then every paper's smoke profile on the built-in synthetic set, tables and a report
# make test        install with the test requirements, then the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: reproduce test slow real lint benchmark

$(VENV)/installed: setup.cfg pyproject.toml requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("ganspect needs Python 3.11 or later") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable .
	touch $@

$(VENV)/tested: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable ".[test]"
	touch $@

reproduce: $(VENV)/installed
	$(BIN)/ganspect reproduce all --profile smoke --jobs 2

test: $(VENV)/tested
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

$(VENV)/extended: $(VENV)/tested
	$(BIN)/python -m pip install --quiet --constraint requirements.txt --editable ".[test,ray,export]"
	touch $@

slow: $(VENV)/extended
	$(BIN)/python -m pytest -m slow

real: $(VENV)/tested
	$(BIN)/python -m pytest -m real

lint: $(VENV)/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

benchmark: $(VENV)/tested
	$(BIN)/python benchmarks
