# Two commands for a newcomer, `make demo` and `make test`; the rest are their parts.
#
# Everything of Python lives in .venv, everything of Go in the folders' own dist/: nothing is installed
# on the machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOURNALS := $(CURDIR)/.demo/journals
DEMO := env METAFLOW_HOME=$(CURDIR)/.demo METAFLOW_DATASTORE_SYSROOT_LOCAL=$(CURDIR)/.demo \
        OTEL_METAFLOW_HOME=$(JOURNALS) METAFLOW_USER=$${METAFLOW_USER:-$${USER:-demo}}

.DEFAULT_GOAL := help

include collector.mk

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "otel-metaflow needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable . --group dev
	@touch $@

# Microsoft's emulator of Azure's blobs, which is on npm alone.
AZURITE := $(VENV)/azurite/node_modules/.bin/azurite-blob
$(AZURITE): $(STAMP)
	npm install --silent --no-fund --no-audit --no-save --prefix $(VENV)/azurite azurite@3.35.0
	@touch $@

# What all tests need.
TESTED := $(STAMP) collector vendors $(if $(shell command -v npm),$(AZURITE))

.PHONY: install
install: $(STAMP) ## a virtual environment with the package and what its tests need

.PHONY: demo
demo: $(STAMP) ## run an example with @otel, which fails on purpose, and look at it
	@rm -rf .demo && mkdir .demo
	-@$(DEMO) $(BIN)/python examples/tour.py --no-pylint run
	@echo
	@$(DEMO) $(BIN)/otel-metaflow view TourFlow/$$(ls $(JOURNALS)/TourFlow)
	@echo
	@$(DEMO) $(BIN)/otel-metaflow view TourFlow/$$(ls $(JOURNALS)/TourFlow) --html .demo/run.html $(SHOWN)
	@echo "the run failed on purpose: open .demo/run.html in a browser to see where and why"

# In the browser as well, where there is a screen.
SHOWN := $(if $(or $(DISPLAY),$(WAYLAND_DISPLAY),$(filter Darwin,$(shell uname))),--open)

.PHONY: screenshots
screenshots: demo ## the pictures of the README, of the run of the demo
	@$(DEMO) $(BIN)/python docs/screenshots.py

.PHONY: lint
lint: $(STAMP) ## style, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check
check: lint ## the quick part of it all: no collector, no container, no browser, nothing slow
	$(BIN)/pytest -n 2 -m 'not (collector or browser or slow)' $(PYTEST_ARGS)

.PHONY: test
test: $(TESTED) collector-test ## all tests; builds both collectors on the first run
	$(BIN)/pytest -n 2 --dist loadfile $(PYTEST_ARGS)

.PHONY: test-range
test-range: $(STAMP) collector vendors ## what versions matter to, by the built wheel, over the Pythons and versions allowed
	$(BIN)/nox

.PHONY: test-remote
test-remote: $(STAMP) ## remote steps in real containers; builds Kubernetes and an image of its own on the first run
	$(BIN)/pip install --quiet --group bed
	$(BIN)/pytest -n 0 tests/bed $(PYTEST_ARGS)

.PHONY: test-batch
test-batch: ## the part of test-remote that needs no Kubernetes, in five minutes: AWS Batch and Step Functions
	$(MAKE) test-remote PYTEST_ARGS='-k "AwsBatch and not down or StepFunctions and success" $(PYTEST_ARGS)'

.PHONY: coverage
coverage: $(TESTED) ## which lines the tests reach, in their subprocesses too
	rm -rf .coverage && mkdir .coverage
	-$(BIN)/coverage run -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: bench
bench: $(STAMP) collector ## what telemetry costs a run: docs/wall-times.md, in two hours
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python bench

.PHONY: bench-cost
bench-cost: $(STAMP) ## what telemetry costs in instructions; needs valgrind, and no quiet machine
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/cost

.PHONY: cost
cost: $(STAMP) ## whether a task costs no more than it may, with @otel and without; needs valgrind
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/cost --check --only imports --only tasks

.PHONY: bench-stages
bench-stages: $(STAMP) ## what a record costs the shipper, stage by stage, in time and instructions; needs valgrind
	$(BIN)/python bench/stages.py

.PHONY: bench-wide
bench-wide: $(STAMP) ## what a shipper needs for a run of up to 50,000 attempts, in 25 minutes
	$(BIN)/python bench/wide.py

.PHONY: bench-sinks
bench-sinks: $(STAMP) ## what it costs to send, by the official exporters and by the standard library; needs valgrind
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/sinks.py

.PHONY: bench-pods
bench-pods: $(STAMP) ## what telemetry adds to a container, and what a kill of one loses, in five minutes; needs podman
	$(BIN)/pip install --quiet --group bed
	$(BIN)/python bench/pods.py

.PHONY: bench-container
bench-container: $(STAMP) ## what the shipper of a container takes: start, memory, and while it waits
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python bench/container.py

.PHONY: bench-view
bench-view: $(STAMP) ## what the page of a large run costs to write and to open; needs chromium
	$(BIN)/python bench --only pages

.PHONY: clean
clean: ## remove what the targets above made
	rm -rf $(VENV) .nox .coverage .demo collector/dist tests/vendors/dist
