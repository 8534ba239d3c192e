# llmops_nb. `make` lists what there is to do; everything lives in .venv and needs Python ≥ 3.11, pip and make.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest
# What the first run needs: the language model, the embedder and the re-ranker of experiments/pydocs
MODELS := qwen2.5-coder-0.5b bge-small-en-v1.5 ms-marco-minilm-l-12

.DEFAULT_GOAL := help
.PHONY: help setup demo sweep test bench simulate docs pages lock clean anew

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# An interpreter asked for by name (make setup PYTHON=python3.12) replaces an environment made with another version.
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(BIN)/python),)
ifneq ($(call version,$(PYTHON)),$(call version,$(BIN)/python))
OTHER := anew
endif
endif
endif

check = $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is \
    %d.%d. Name another one: make setup PYTHON=python3.12" % sys.version_info[:2])'

anew:
	@$(check)
	rm -rf .venv

setup: $(READY) ## Make .venv with everything in it, from requirements.lock
	@echo 'Ready: $(BIN)/llmops, $(BIN)/jupyter lab'

$(READY): requirements.lock pyproject.toml $(OTHER)
	@$(check)
	@test -x $(BIN)/pip || { echo 'Making .venv ...'; $(PYTHON) -m venv --clear .venv; }
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: ## Set up, then evaluate the example app with a local model; ends with the report's path
	@start=$$(date +%s) && $(MAKE) --no-print-directory setup && \
	ready=$$(date +%s) && for model in $(MODELS); do $(BIN)/llmops models pull $$model || exit; done && \
	pulled=$$(date +%s) && $(BIN)/llmops run experiments/pydocs/eval.ipynb && \
	ended=$$(date +%s) && \
	printf '\nSet-up %d s, models %d s, run %d s.\nReport: %s\n' $$((ready - start)) $$((pulled - ready)) $$((ended - pulled)) \
	    "$$(ls -t reports/pydocs/*/report.html | head -n 1)"

sweep: setup ## Set up, then sweep prompts, examples and two local models over the example app; ends with the report's path
	@for model in $(MODELS) smollm2-135m; do $(BIN)/llmops models pull $$model || exit; done
	$(BIN)/llmops sweep experiments/pydocs/sweep.yaml --yes

test: setup ## Set up, then everything that must hold: style, types, lessons, experiments, tests
	$(BIN)/ruff check
	$(BIN)/python -m mypy
	$(PYTEST) --nbval-lax --nbval-current-env tests experiments

bench: setup ## Benchmarks: a table of times and of ratios to an ideal measured in the same run
	@for bench in tests/bench/bench_*.py; do $(BIN)/python $$bench || exit; done

simulate: setup ## Simulations behind the statistics: coverage, false alarms, power, races; takes minutes
	$(BIN)/python tests/bench/simulate_statistics.py

docs: setup ## Build the pages as a site in site/, offline, and check its links
	$(BIN)/python docs/build.py site site

pages: setup ## Export the modules, execute the pages, clean them, write README.md
	$(BIN)/nbdev-export
	$(BIN)/nbdev-test --save
	$(BIN)/nbdev-clean
	$(BIN)/nbdev-clean --fname experiments
	$(BIN)/python docs/build.py readme

lock: ## Resolve pyproject.toml anew into requirements.lock
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-annotate --custom-compile-command 'make lock' --extra dev --output-file requirements.lock pyproject.toml

clean: ## Remove what can be made again, except runs and .venv
	rm -rf site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find llmops_nb tests docs -name __pycache__ -prune -exec rm -rf {} +
