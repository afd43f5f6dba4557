# Each target creates .venv and installs what it needs. Nothing else is needed but Python 3.11+,
# a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The benchmarks import onnxruntime before fggp_deploy, which would set this variable.
export ORT_DISABLE_TELEMETRY ?= 1
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench bench-arm bench-bytes bench-masks bench-format bench-training clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | \
		awk -F ':.*  ## ' '{printf "make %-15s %s\n", $$1, $$2}'

demo: $(READY)  ## prune, export and verify the embedded network
	$(BIN)/fggp-deploy demo

test: $(READY)  ## run all tests and doctests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest --quiet --doctest-modules --ignore fggp_deploy/integrations fggp_deploy cli exporters

lint: $(READY)  ## check formatting, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Run these on a machine that does nothing else.
bench: $(READY)  ## speed of the kernels, also on a busy machine; ARGS=--quick for a short run
	$(BIN)/python benchmarks/bench_kernels.py $(ARGS)

bench-arm: $(READY)  ## a short benchmark to report from an Arm machine
	@echo "== report"
	@$(BIN)/fggp-deploy doctor
	@$(BIN)/python benchmarks/bench_kernels.py --quick --sections speed
	@$(BIN)/python benchmarks/bench_bytes.py --quick

bench-bytes: $(READY)  ## speed with int8 activations; ARGS=--quick for a short run
	$(BIN)/python benchmarks/bench_bytes.py $(ARGS)

bench-masks: $(READY)  ## speed on your own runs; ARGS="--data-dir ~/data runs/a runs/b"
	$(BIN)/python benchmarks/bench_masks.py $(ARGS)

bench-format: $(READY)  ## size of the encodings, time to load
	$(BIN)/python benchmarks/bench_format.py

bench-training: $(READY)  ## training throughput and the time of a mask update
	$(BIN)/python benchmarks/bench_training.py $(ARGS)

$(READY): pyproject.toml CMakeLists.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:  ## remove .venv and build products
	rm -rf $(VENV) build dist
