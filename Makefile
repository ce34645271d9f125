# Every operation of the project; `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
APART := $(VENV)/apart

.DEFAULT_GOAL := help
.PHONY: help setup demo test campaigns docs lint format lock audit stages up down status deploy worker clean

help: ## List the operations
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with everything that is tested, pinned by requirements.lock

$(STAMP): pyproject.toml requirements.lock requirements-demo.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed; $(PYTHON) is {v[0]}.{v[1]}. Try: make setup PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing (once; a few minutes) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-demo.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(APART) --constraint requirements.lock bitsandbytes
	@touch $(STAMP)

demo: setup ## Run the main job on real movie reviews, on this machine alone
	@$(BIN)/bakeoff run configs/quickstart.yaml

test: setup ## Check style, types and the direction of imports, then run every test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m tests.groups
	@PYTHONPATH=$(APART) $(BIN)/python -m pytest --quiet tests/tuning/test_quantized.py

campaigns: setup ## Long tests that record figures: kills, races, secrets, refusals, load
	@$(BIN)/python -m benchmarks.campaigns

lint: setup ## Style, types and imports alone
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## Put the code into the house style
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

docs: setup ## Write the reference and prefect.yaml from the code and build the documentation into site/; a broken link fails
	@$(BIN)/python docs/reference/generate.py
	@$(BIN)/python -m deployments.prefect_yaml
	@NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

stages: setup ## Keep the code hashes of the stages' versions, after a change
	@$(BIN)/python -m tests.stages

lock: setup ## Resolve requirements.lock and the images' locks anew (a new torch: with TORCH_INDEX)
	@$(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip compile pyproject.toml --extra dev --extra image --extra quantized --universal --python-version 3.11 \
		--no-annotate --no-header --quiet --output-file requirements.lock
	@$(BIN)/python -m deployments.locks

AUDIT ?= --vulnerability-service osv
audit: setup ## Fail if a locked version is known to be vulnerable (asks osv.dev)
	@$(BIN)/pip-audit $(AUDIT) --progress-spinner off --disable-pip --no-deps --requirement deployments/image/common.lock --requirement deployments/image/cuda.lock

HOME_HERE = BAKEOFF_HOME=$${BAKEOFF_HOME:-$(CURDIR)/.bakeoff}
up: setup ## Prefect server, UI, workers, S3 and local LLM on this machine: make up PORT=4200
	@$(HOME_HERE) $(BIN)/python -m deployments up $(if $(PORT),--port $(PORT)) $(UP)

down: setup ## Stop what `make up` started; runs go on at the next one
	@$(HOME_HERE) $(BIN)/python -m deployments down

status: setup ## How what `make up` started is
	@$(HOME_HERE) $(BIN)/python -m deployments status

deploy: setup ## Register the flows on the work pools of a running Prefect server
	@$(BIN)/python -m deployments

POOL ?= cpu
worker: setup ## Start a worker: make worker POOL=gpu|apple-silicon|cpu
	@$(HOME_HERE) $(BIN)/python -m deployments worker $(POOL)

clean: ## Remove .venv (the workspace in .bakeoff stays)
	@rm -rf $(VENV)
