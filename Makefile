# Every target sets up what it needs: a virtual environment in .venv, cluster programs in one cache folder.
# Only node-packages changes anything else on the machine. CONTRIBUTING.md describes each target.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# The installers' own caches, and a Python that uv may download, go into the same folder.
CACHE  := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/medplum-agent-operator
export PIP_CACHE_DIR         := $(CACHE)/pip
export UV_CACHE_DIR          := $(CACHE)/uv
export UV_PYTHON_INSTALL_DIR := $(CACHE)/python

.DEFAULT_GOAL := help
.PHONY: help demo check test lint format crds lock cluster node-packages images bench bench-handoff bench-gate bench-gate-handoff bench-rollback gate-peers-java chaos mutants clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

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

# Built before pytest starts, which would hide the progress of a build that takes minutes.
.PHONY: cluster-tools
cluster-tools: $(STAMP)
	@if [ -z "$$E2E_KUBECONFIG" ]; then $(BIN)/python -m tests.support.cluster.toolchain >/dev/null; fi

demo: $(STAMP) ## Show the operator at work: on a real node with HL7 traffic (as root), else on simulated pods
	@$(BIN)/python -m tests.tools.demo

check: lint ## Lint, types and every quick test that needs no cluster: about three minutes
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not cluster and not nodes and not slow"

test: $(STAMP) cluster-tools ## Run every test; those on real nodes (root and packages) run last
	@$(BIN)/python -m pytest -n 4 --dist worksteal --ignore=tests/node
	@$(BIN)/python -m pytest $(if $(E2E_KUBECONFIG),-n 0,-n 2 --dist worksteal) tests/node

lint: $(STAMP) ## Run ruff, mypy --strict and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/mypy tests && $(BIN)/lint-imports --no-logo

format: $(STAMP) ## Fix with ruff what it can fix, and format
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

crds: $(STAMP) ## Generate crds/medplumagents.yaml from the pydantic models
	@$(BIN)/python -m medplum_agent_operator.api.crd > crds/medplumagents.yaml

lock: ## Update the pinned dependencies (needs uv)
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --python-version 3.11 pyproject.toml -o requirements.txt
	@uv pip compile -q --universal --generate-hashes --no-header --no-emit-index-url --no-annotate --python-version 3.11 pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

cluster: $(STAMP) ## Run a local cluster and the operator until Ctrl-C
	@$(BIN)/python -m tests.tools.playground

node-packages: ## Install the Debian packages for test images and real nodes (as root)
	@.ci/packages

images: $(STAMP) ## Build the test images and show the size of their layers (as root)
	@$(BIN)/python -m tests.support.cluster.images --sizes

bench: $(STAMP) ## Measure the operator: latency, writes, memory; results in build/bench/
	@$(BIN)/python -m tests.tools.bench

bench-handoff: $(STAMP) ## Measure rollouts as devices see them, on real nodes (as root); results in build/bench/
	@$(BIN)/python -m tests.tools.handoffs

bench-gate-handoff: $(STAMP) ## Measure rollouts behind a gate as devices see them, on real nodes (as root)
	@$(BIN)/python -m tests.tools.handoffs.behind_gate

bench-rollback: $(STAMP) ## Measure recovery after a failed rollout, on real nodes (as root)
	@$(BIN)/python -m tests.tools.handoffs.going_back

bench-gate: $(STAMP) ## Measure the cost of the gate, and what devices notice while one address misbehaves
	@$(BIN)/python -m tests.tools.gate_bench
	@$(BIN)/python -m tests.tools.gate_bench.crowd

gate-peers-java: $(STAMP) ## Run HAPI's client and server with and without the gate (needs a JDK and Maven)
	@JAVA_PEERS=1 E2E_REQUIRE_NODES=1 $(BIN)/python -m pytest tests/gate/test_foreign_peers.py -k Hapi

MINUTES ?= 10
chaos: $(STAMP) ## Random faults under traffic on real nodes (as root); MINUTES=10, SEED=N to repeat a run
	@$(BIN)/python -m tests.tools.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

mutants: $(STAMP) ## Mutation-test the core; results in build/mutations/
	@$(BIN)/python -m tests.tools.mutations $(MODULES)

clean: ## Remove everything that the targets made in this checkout
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "The cache stays in $(CACHE). Delete that folder to build the cluster programs again."
