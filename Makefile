# `make run` and `make test` set up all they need; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help
help: ## What there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "pip>=25.3"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --build-constraint constraints.txt --editable . --group dev
	@touch $@

WEB := ticker/web
PAGE := $(WEB)/static/index.html
NODE_READY := node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' 2>/dev/null && npm --version >/dev/null 2>&1

$(WEB)/node_modules/.ready: $(WEB)/package-lock.json
	@if $(NODE_READY); then cd $(WEB) && npm ci --no-progress && touch node_modules/.ready; fi

$(PAGE): $(WEB)/node_modules/.ready $(shell find $(WEB)/sdk/src $(WEB)/dashboard/src $(WEB)/dashboard/*.* -type f 2>/dev/null)
	@if $(NODE_READY); then cd $(WEB) && npm run --silent build --workspace sdk && npm run --silent build --workspace dashboard && cp sdk/dist/ticker.js static/; \
	else echo "The dashboard is not built: Node.js 20 or newer with npm was not found. The service runs without it."; fi

.PHONY: web
web: $(PAGE) ## Build the dashboard, where Node.js 20 or newer is found

.PHONY: run
run: $(READY) web ## Serve on port 8000 with the simulated feed
	@$(BIN)/ticker serve $(ARGS)

.PHONY: demo-kafka
demo-kafka: $(READY) ## Run a broker, a producer and two replicas; ARGS: recordings
	@$(BIN)/python -m tests.demo_kafka $(ARGS)

.PHONY: demo-ops
demo-ops: $(READY) prometheus ## Run the service with clients, and a Prometheus with its alerts
	@$(BIN)/python -m tests.demo_ops $(ARGS)

.PHONY: browser
browser: $(READY) ## Install a browser for the tests of the page, where that may be done
	@$(BIN)/python -m tests.browser --install

.PHONY: prometheus
prometheus: $(READY) ## Get a Prometheus for the tests of alerts, where that may be done
	@$(BIN)/python -m tests.prometheus --install

.PHONY: test
test: $(READY) web browser prometheus ## Run every test but the soaks
	$(BIN)/python -m pytest $(ARGS)

.PHONY: soak
soak: $(READY) ## Run the slow soaks
	$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGS)

.PHONY: container
container: $(READY) ## Build what the Dockerfile builds, and run it
	$(BIN)/python -m pytest -m container --timeout 900 $(ARGS)

.PHONY: format
format: $(READY) ## Format the code, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lint
lint: $(READY) ## Formatting, lint, types, and the structure of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pytest -q tests/test_structure.py

.PHONY: check
check: lint test ## All that must hold before a change goes in

.PHONY: bench
bench: $(READY) ## Measure: prints a table, writes benchmarks/out/bench.json
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: lock
lock: $(READY) ## Pin the newest versions of all dependencies anew
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.3" hatchling editables
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	$(VENV)-lock/bin/python -m pip freeze --all --exclude-editable --exclude setuptools > constraints.txt
	rm -rf $(VENV)-lock

.PHONY: clean
clean: ## Remove all that was made
	rm -rf $(WEB)/node_modules $(WEB)/static $(WEB)/*/dist
	rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis benchmarks/out
