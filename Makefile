# What each target does: make help. Needs make, Python 3.11 or newer, and pip (uv is used where present).

PYTHON      ?= python3
VENV        ?= .venv
ACCELERATOR ?= cpu
UV          ?= $(shell command -v uv 2>/dev/null)
WORKERS     ?= 2
TESTS       ?=
RESULTS     ?= results
REPRODUCED  ?= runs/reproduce

# Without this JAX would take whatever it finds; with an accelerator named, it fails where there is none.
export JAX_PLATFORMS ?= $(ACCELERATOR)

BIN  := $(VENV)/bin
BASE := $(VENV)/installed-base-$(ACCELERATOR)
DEV  := $(VENV)/installed-dev-$(ACCELERATOR)
DOCS := $(VENV)/installed-docs-$(ACCELERATOR)
SITE := build/docs
comma := ,
EXTRA := $(filter-out cpu,$(ACCELERATOR))
# A worker that has run out of tests takes over half of another's: no file of many tests is waited for.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
NAME_ONE := name a Python of 3.11 or newer, as in make PYTHON=python3.12

.PHONY: help reproduce test test-all test-fast lint tables docs speed clean
.DEFAULT_GOAL := help

help:
	@echo 'make reproduce   TiCoSeRec and SASRec on MovieLens-100K; prints the table, keeps it in $(REPRODUCED)'
	@echo 'make test        ruff, mypy, the tests and doctests but those that are marked long; CI runs it'
	@echo 'make test-all    the same with all tests, in some forty minutes: before a change is merged'
	@echo 'make test-fast   the tests and doctests that end in two minutes: none that is marked slow'
	@echo 'make tables      the tables in README.md, results/README.md and docs/models.md, from results/ and the source'
	@echo 'make docs        the site of the documentation, in $(SITE)/html; a warning is an error'
	@echo 'make speed       the benchmarks: experiments/speed.py'
	@echo 'make clean       removes the environment and caches; results/ and runs/ stay'
	@echo
	@echo 'Settings: PYTHON=$(PYTHON) VENV=$(VENV) ACCELERATOR=$(ACCELERATOR) (cpu, cuda or tpu) WORKERS=$(WORKERS)'
	@echo '          TESTS=tests/report (what pytest runs; all by default) RESULTS=$(RESULTS) REPRODUCED=$(REPRODUCED)'

# The command of the README's first lines. The table is made from the result files it just wrote.
reproduce: $(BASE)
	$(BIN)/python -m experiments.sequential.ticoserec --dataset ml-100k --preset reproduce --seeds 0 \
	    --results $(REPRODUCED)/results --workdir $(REPRODUCED)/work
	$(BIN)/python -m jaxrec.report --results $(REPRODUCED)/results --readme ''

test: lint
	$(PYTEST) -m 'not long' $(TESTS)

test-all: lint
	$(PYTEST) $(TESTS)

test-fast: $(DEV)
	$(PYTEST) -m 'not slow and not long' $(TESTS)

lint: $(DEV)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

tables: $(BASE)
	$(BIN)/python -m jaxrec.report --results $(RESULTS)

docs: $(DOCS)
	rm -rf $(SITE)
	$(BIN)/python -m docs.pages $(SITE)/source
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs $(SITE)/source $(SITE)/html
	@echo '$(SITE)/html/index.html'

speed: $(BASE)
	$(BIN)/python -m experiments.speed

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment is installed once, and again when pyproject.toml is newer than its stamp.
$(BASE): pyproject.toml | $(VENV)/created
	$(call install,$(EXTRA))
	@touch $@

$(DEV): pyproject.toml | $(VENV)/created
	$(call install,dev$(comma)plots$(comma)parquet$(comma)export$(comma)sweep$(addprefix $(comma),$(EXTRA)))
	@touch $@ $(BASE)

$(DOCS): pyproject.toml | $(VENV)/created
	$(call install,docs$(addprefix $(comma),$(EXTRA)))
	@touch $@ $(BASE)

# Debian ships Python without ensurepip (package python3-venv): then the environment gets pip from the outer one.
# A stamp, not bin/python, says that it is whole: an interrupted first run is taken up again.
$(VENV)/created:
	@command -v $(PYTHON) >/dev/null || { echo 'error: no $(PYTHON): $(NAME_ONE)' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version) is too old: $(NAME_ONE)" >&2; exit 1; }
	@if [ -n '$(UV)' ]; then \
	  test -x $(BIN)/python || '$(UV)' venv --quiet --python $(PYTHON) $(VENV); \
	elif $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  true; \
	elif $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  $(PYTHON) -m venv $(VENV); \
	elif $(PYTHON) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; \
	else \
	  echo 'error: $(PYTHON) has neither ensurepip nor pip: apt-get install python3-venv' >&2; exit 1; \
	fi
	@touch $@

ifneq ($(UV),)
install = '$(UV)' pip install --quiet --python $(BIN)/python --editable '.$(if $(1),[$(1)])'
else
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.$(if $(1),[$(1)])'
endif
