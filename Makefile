# Everything here works in an environment of its own, .venv; nothing else need be installed or running.

PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
    $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
    && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv run test lint proto clean

help: ## Show these targets.
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

venv: $(INSTALLED) ## Create .venv and install the project into it, at the versions of requirements.txt.

# torch goes first and alone, so that a CPU wheel that pip is configured to find is taken before anything else asks for torch.
$(INSTALLED): pyproject.toml requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found; name one with make PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c requirements.txt torch
	$(BIN)/python -m pip install --quiet -c requirements.txt -e ".[dev,bench]"
	@touch $@

run: $(INSTALLED) ## Install, then the demonstration: serve, stream, kill, recover, report.
	$(BIN)/continual demo

test: lint ## Install, then every test that needs no GPU.
	$(BIN)/python -m pytest -n auto --dist loadgroup

lint: $(INSTALLED) ## Style, docstrings and types.
	$(BIN)/ruff check .
	$(BIN)/mypy

proto: $(INSTALLED) ## Rebuild the gRPC stubs, after a change of the .proto file.
	$(BIN)/python -m grpc_tools.protoc -I. \
	    -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
	    --python_out=. --pyi_out=. --grpc_python_out=. service/api/continual_v1.proto

clean: ## Remove .venv and every cache.
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
