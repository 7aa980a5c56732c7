PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench clean

help:
	@echo "make demo    the main job: train, sample and plot into out/"
	@echo "make test    the tests (PYTEST_ARGS='-m \"not gpu\"' for the slow ones too; VLAE_FAST_DATA=folder for real data)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks, quick settings"
	@echo "make clean   remove what was built; $(VENV) stays"
	@echo "PYTHON=$(PYTHON) VENV=$(VENV)"

$(STAMP): requirements.txt setup.py pyproject.toml $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-build-isolation --no-deps -e .
	@cat vlae_fast/_build_report.json # pip is silent about a build that succeeded without the native library
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m vlae_fast demo --out out

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run --quick

clean:
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f vlae_fast/*.so vlae_fast/_build_report.json $(STAMP)
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
