# Every target sets up what it needs: a virtual environment in .venv, cluster tools in one cache folder.
# Nothing else on the machine is touched. CONTRIBUTING.md tells what each target is for.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# What the installers keep for themselves goes into the one cache folder too, and so does a Python that uv may bring.
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/medplum-agent-operator
export PIP_CACHE_DIR         := $(CACHE)/pip
export UV_CACHE_DIR          := $(CACHE)/uv
export UV_PYTHON_INSTALL_DIR := $(CACHE)/python

.DEFAULT_GOAL := help
.PHONY: help demo test lint format crds lock cluster node-packages images bench bench-handoff bench-gate bench-gate-handoff bench-rollback chaos mutants clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

$(STAMP): requirements-dev.txt pyproject.toml
	@echo "Setting up $(VENV) from requirements-dev.txt (hash-pinned) ..."
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv -q --allow-existing --python '>=3.11' $(VENV) && \
	  uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.txt && \
	  uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: install it, or uv, or set PYTHON=/path/to/python3.11")' && \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

# Built before the tests start, so that minutes of building are seen. Nothing to do once the cache has them.
.PHONY: cluster-tools
cluster-tools: $(STAMP)
	@if [ -z "$$E2E_KUBECONFIG" ]; then $(BIN)/python -m tests.support.cluster.toolchain >/dev/null; fi

demo: $(STAMP) ## Install, hand off, refuse, force, delete: on a real node under traffic as root, else on simulated pods
	@$(BIN)/python -m tests.tools.demo

test: $(STAMP) cluster-tools ## Every test; those on real nodes (root and some packages needed) come last and alone
	@$(BIN)/python -m pytest -n 4 --dist worksteal --ignore=tests/node
	@$(BIN)/python -m pytest $(if $(E2E_KUBECONFIG),-n 0,-n 2 --dist worksteal) tests/node

lint: $(STAMP) ## ruff, mypy --strict, the import contract
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/mypy tests && $(BIN)/lint-imports --no-logo

format: $(STAMP) ## Let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

crds: $(STAMP) ## Generate crds/medplumagents.yaml from the pydantic models
	@$(BIN)/python -m medplum_agent_operator.api.crd > crds/medplumagents.yaml

lock: ## Pin the dependencies again (needs uv)
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --python-version 3.11 pyproject.toml -o requirements.txt
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --python-version 3.11 pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

cluster: $(STAMP) ## Leave a local cluster and the operator running until Ctrl-C
	@$(BIN)/python -m tests.tools.playground

node-packages: ## Install the Debian packages that images and nodes of the tests need (as root)
	@.ci/packages

images: $(STAMP) ## Build the images of the tests, and show the size of their layers (as root)
	@$(BIN)/python -m tests.support.cluster.images --sizes

bench: $(STAMP) ## Measure latency, writes and memory; figures go to build/bench/
	@$(BIN)/python -m tests.tools.bench

bench-handoff: $(STAMP) ## Measure on real nodes what devices notice while agents change (as root); figures and picture go to build/bench/
	@$(BIN)/python -m tests.tools.handoffs

bench-gate-handoff: $(STAMP) ## Measure on real nodes what devices notice of changes behind a gate (as root); figures go to build/bench/
	@$(BIN)/python -m tests.tools.handoffs.behind_gate

bench-rollback: $(STAMP) ## Measure on real nodes how soon an agent serves again after a change that failed (as root); figures go to build/bench/
	@$(BIN)/python -m tests.tools.handoffs.going_back

bench-gate: $(STAMP) ## Measure what the gate costs: latency, throughput, CPU, memory; figures go to build/bench/
	@$(BIN)/python -m tests.tools.gate_bench

MINUTES ?= 10
chaos: $(STAMP) ## Everything at random, under traffic, on real nodes, for MINUTES=10 (as root); SEED=N for the same again
	@$(BIN)/python -m tests.tools.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

mutants: $(STAMP) ## Change each decision of the core in every small way: does a test notice? Figures go to build/mutations/
	@$(BIN)/python -m tests.tools.mutations $(MODULES)

clean: ## Remove what the targets made in this checkout (the cache folder stays; `make clean` names it)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "The cluster tools stay in $(CACHE); remove that folder to build them again."
