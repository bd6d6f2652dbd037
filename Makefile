# Everything happens in .venv; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pytest workers: one more than there are cores, since many tests wait for servers.
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))

.DEFAULT_GOAL := help
# How long `make fuzz` goes on.
FUZZ_SECONDS ?= 600

.PHONY: help setup quickstart test check soak soak-daemon soak-store bench docs fuzz ops protos wheel image daemon-image clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("deployctl needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
# Its own requirement is the whole of TensorFlow, which is installed already as tensorflow-cpu.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps tensorflow-serving-api
	touch $@

setup: $(VENV)/.installed  ## Install deployctl and its development tools into .venv.

quickstart: setup  ## Train, publish, serve, replace and roll back a real model.
	$(BIN)/python -m examples.quickstart

test: setup  ## Run the whole test suite.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: setup  ## Format, lint, types, architecture, generated files.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deployctl.protos.generate --check
	$(BIN)/python -m docs.generate --check

soak: setup  ## Operations for a minute on four models, 500 changes under load, long random sequences, a daemon.
	DEPLOYCTL_SOAK_S=60 DEPLOYCTL_SOAK_CHANGES=500 DEPLOYCTL_SOAK_STEPS=40 DEPLOYCTL_SOAK_EXAMPLES=20 \
	$(BIN)/python -m pytest --timeout 3600 tests/e2e/test_faults.py tests/e2e/test_operations.py tests/e2e/test_phases.py
	$(MAKE) soak-daemon

soak-daemon: setup  ## A daemon at work for half an hour, with exports and dying servers; one killed at every step.
	DEPLOYCTL_DAEMON_SOAK_S=1800 DEPLOYCTL_DAEMON_KILLS=1000 \
	$(BIN)/python -m pytest --timeout 7200 tests/e2e/daemon/test_soak.py tests/e2e/daemon/test_kills.py

soak-store: setup  ## Kill a hundred publishers and a hundred fetchers of an object store.
	DEPLOYCTL_STORE_KILLS=100 $(BIN)/python -m pytest tests/integration/store/test_kills.py

bench: setup  ## Print each budget as a ratio measured now.
	$(BIN)/python -m bench

docs: setup  ## Write the generated pages of docs/reference.
	$(BIN)/python -m docs.generate

fuzz: setup  ## Show damaged files to the gates, for FUZZ_SECONDS (600).
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -n $(WORKERS) --timeout 1200 tests/integration/gates/test_fuzz.py

ops: setup  ## Write down the ops of the installed TensorFlow, for the gate `ops`.
	$(BIN)/python -m deployctl.modelserver.op_list

protos: setup  ## Generate the protocol buffer modules.
	$(BIN)/python -m deployctl.protos.generate

wheel: setup  ## Build dist/*.whl.
	$(BIN)/python -m build --wheel --outdir dist

image: setup  ## Build the model server's Docker image, deployctl/model-server:latest.
	PYTHON=$(CURDIR)/$(BIN)/python deploy/model-server/build.sh deployctl/model-server:latest

daemon-image: setup  ## Build the daemon's Docker image, deployctl/daemon:latest.
	PYTHON=$(CURDIR)/$(BIN)/python deploy/daemon/build.sh deployctl/daemon:latest

clean:  ## Remove what the other targets made.
	rm -rf $(VENV) build dist
