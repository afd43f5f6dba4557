# Each target makes .venv and installs what it needs; nothing is needed before but Python 3.11+,
# a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The benchmarks import onnxruntime before fggp_deploy, which sets this for everything else.
export ORT_DISABLE_TELEMETRY ?= 1
READY := $(VENV)/.ready

.PHONY: demo test lint bench bench-bytes bench-masks bench-format bench-training clean

demo: $(READY)
	$(BIN)/fggp-deploy demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile
	$(BIN)/python -m pytest --quiet --doctest-modules --ignore fggp_deploy/integrations fggp_deploy cli exporters

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The speed table, on a machine that does nothing else: make bench, or make bench ARGS=--quick
bench: $(READY)
	$(BIN)/python benchmarks/bench_kernels.py $(ARGS)

# Its columns of bytes: make bench-bytes, or make bench-bytes ARGS=--quick
bench-bytes: $(READY)
	$(BIN)/python benchmarks/bench_bytes.py $(ARGS)

# The same on pruned checkpoints of yours: make bench-masks ARGS="--data-dir ~/data runs/a runs/b"
bench-masks: $(READY)
	$(BIN)/python benchmarks/bench_masks.py $(ARGS)

bench-format: $(READY)
	$(BIN)/python benchmarks/bench_format.py

bench-training: $(READY)
	$(BIN)/python benchmarks/bench_training.py $(ARGS)

$(READY): pyproject.toml CMakeLists.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist
