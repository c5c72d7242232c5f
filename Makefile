# make run   train the quickstart, and plain split learning beside it; COMPARE= leaves
#   that out, CONFIG=configs/NAME.toml trains something else
# make test  one test of each kind: minutes
# make test-all  all tests, in two tiers      make lint  style, types, layers
# make clean  remove the environments and caches
# make evidence  the small sweeps of docs/results.md, their reports and attacks, into
#   runs/; goes on after a stop
# make docs  the site of docs/, into site/; a broken link stops it
# make flower  the test of Flower's app, in an environment of its own
PYTHON ?= python3
CONFIG ?= configs/quickstart.toml
COMPARE ?= --compare

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test test-all lint docs clean flower evidence

run: .venv/.installed
	$(BIN)/python run.py --config $(CONFIG) $(COMPARE)

# The first tier compiles much and computes little, so LLVM need not try hard.
test: export XLA_FLAGS := --xla_backend_optimization_level=0 $(XLA_FLAGS)
test: .venv/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

# The second tier beside it: every fault, topology, mesh and kill, and what needs PyTorch.
test-all: .venv/.installed-bench
	$(MAKE) test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m slow

flower: .venv-flower/.installed
	.venv-flower/bin/python -m pytest -q tests/test_flower.py

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy jsplit
	$(BIN)/lint-imports

# What the theme says of mkdocs 2 is known: the extra docs stays below it.
docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.installed-docs
	PATH=$(BIN):$$PATH $(BIN)/mkdocs build --strict --quiet

# Two at a time, with a thread each: that takes a fifth less time than two with as many
# threads as cores, and the figures do not depend on how many those are. In this order
# both end at about the same time.
SWEEPS := privacy gates clients skewed cuts

evidence: .venv/.installed-dev
	$(MAKE) -j2 $(SWEEPS:%=evidence-%)

evidence-%: export NPROC := 1
evidence-%: .venv/.installed-dev
	$(BIN)/jsplit sweep configs/sweeps/$*.toml --folder runs/$*
	$(BIN)/jsplit report runs/$*
	$(if $(filter privacy,$*),$(BIN)/jsplit privacy runs/$*)

clean:
	rm -rf .venv .venv-flower build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	    .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package is installed editable, so an edit takes effect at once; the stamps
# bring the install back only when pyproject.toml changes.
.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "Installing jsplit into .venv; this takes about a minute."
	@$(PIP) install --quiet --editable '.[all]'
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "Installing jsplit and its tests into .venv; this takes some minutes."
	@$(PIP) install --quiet --editable '.[dev]'
	@touch .venv/.installed $@

.venv/.installed-docs: pyproject.toml | .venv/bin/python
	@echo "Installing what makes the docs into .venv; this takes about a minute."
	@$(PIP) install --quiet --editable '.[docs]'
	@touch $@

.venv/.installed-bench: pyproject.toml | .venv/.installed-dev
	@echo "Installing PyTorch, for comparisons, into .venv; this takes some minutes."
	@$(PIP) install --quiet --editable '.[bench]'
	@touch $@

.venv-flower/.installed: pyproject.toml
	@echo "Installing jsplit and Flower into .venv-flower; this takes some minutes."
	@$(PYTHON) -m venv .venv-flower
	@.venv-flower/bin/python -m pip --disable-pip-version-check install --quiet \
	    --editable '.[flower]' hypothesis pytest
	@touch $@

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo \
	  "make: no '$(PYTHON)' here; name a Python >= 3.11: make PYTHON=/path/to/python" \
	  >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "make: $$($(PYTHON) --version 2>&1) is too old, jsplit needs 3.11 or newer;" \
	  "name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	  "make: this Python has no venv module; install it (Debian, Ubuntu:" \
	  "apt install python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv .venv
