.DEFAULT_GOAL := help
.PHONY: help install .venv-vllm packages demo test test-all lint format lock bench train clean
BIN := .venv/bin
BUILT := $(addprefix var/,models demo-v2 bench cache log tests-of-parts.log tests-of-programs.log)

help: ## show the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: ## make .venv with the `thalamus` command
	@deploy/environment.sh dev

.venv-vllm:
	@deploy/environment.sh vllm

packages:
	@deploy/packages.sh

demo: install .venv-vllm ## run everything on this machine: real models, a trained router, the gateway
	@$(BIN)/thalamus demo

test: install packages .venv-vllm ## prove it: slow tests at a smaller size
	@tests/run.sh

test-all: install packages .venv-vllm ## prove it at full size
	@THALAMUS_TEST_SIZE=full tests/run.sh

bench: install ## measure this gateway beside others: CPU and latency, a table and a plot in var/bench
	@$(BIN)/python -m tests.load.bench

train: install ## make the demo's router model anew from the committed outcomes
	@$(BIN)/thalamus train configs/training/demo-v2.yaml --output var/demo-v2

lint: install ## ruff, strict mypy and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: install ## let ruff format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: ## resolve the dependency lists anew
	@deploy/environment.sh lock

clean: ## remove environments, what was built, and caches; keys, money and records in var/*state* stay
	@rm -rf .venv .venv-vllm .venv-tools $(BUILT) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
