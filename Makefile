# Everything from a bare clone with Python 3.11 and make: `make demo`, `make test`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

# Every extra that a machine without a GPU can use. Not `gpu`: onnxruntime-gpu overwrites onnxruntime's files.
EXTRAS := export,hub,openvino,trt,cuda,train,eval,bench,label,ray,phrases,serve,triton,dev

# Two workers of one thread each: more threads than cores make torch several times slower.
WORKERS ?= 2
TEST_THREADS ?= 1
ARGS ?=

# Interpreters for test-pythons, with spaces between; by default each Python of pyproject.toml that is found here.
PYTHONS ?=
# Extras for test-lowest; all that a CPU can run are bench,cuda,eval,export,hub,label,openvino,phrases,ray,serve,train,triton (minutes).
LOWEST_EXTRAS ?= bench,eval,hub,label,serve,triton

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-structures test-avx2 test-sanitized triton-server tensorrt-names test-lowest test-pythons test-gpu bench-gpu lint clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the package and all extras that need no GPU; quick when nothing changed

# torch comes first and alone: PyPI's plain torch for Linux pulls several GB of CUDA libraries, which this toolkit
# does not use; where a CPU wheel of exactly this version is offered, pip takes it, and the extras then keep it.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "make setup needs Python 3.11 or later; name it: make setup PYTHON=/path/to/python3"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing glip-export[$(EXTRAS)] into .venv; the first time takes some minutes."
	@$(BIN)/python -m pip install --quiet torch==2.13.0
	@$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(READY) engines/demo/manifest.json ## Export the demo model, prove it, ask three prompts about a picture: demo-output/demo.png
	@$(BIN)/python demo/demo.py

serve: $(READY) engines/demo/manifest.json ## Serve the demo model with its live page; prints the address
	@$(BIN)/glip-export serve engines/demo $(ARGS)

engines/demo/manifest.json: demo/glip_demo.safetensors demo/glip_demo.yaml demo/bert_config.json | $(READY)
	$(BIN)/glip-export onnx --weights $< --config demo/glip_demo.yaml --bert-config demo/bert_config.json \
		--output engines/demo

test: $(READY) triton-server tensorrt-names ## Run the tests that need no GPU (ARGS="-k bundle" passes options to pytest)
	@GLIP_REHEARSE_GPU=1 OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
		-m "not gpu" --ignore tests/sanitized $(ARGS)

test-structures: $(READY) ## Run every small model of the original's in every backend; `make test` takes one of each kind
	@GLIP_EVERY_STRUCTURE=1 OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile \
		tests/runtime/structures $(ARGS)

test-sanitized: $(READY) ## Run the kernels' edge cases with g++'s sanitizers, and on AArch64 under emulation
	@OMP_NUM_THREADS=$(TEST_THREADS) $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile tests/sanitized $(ARGS)

# What an ordinary processor lacks is hidden from torch, oneDNN (OpenVINO's too), MKL, NumPy's BLAS and our kernels; ONNX
# Runtime has no switch.
HIDDEN := ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 GLIP_EXPORT_CPU_ISA=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	OPENBLAS_CORETYPE=Haswell

test-avx2: ## Run the tests with AVX-512 and bf16 hidden, as on a processor that has only AVX2
	@$(HIDDEN) $(MAKE) --no-print-directory test

# A real tritonserver for the CPU, from a wheel; where there is none for this Python or machine, its tests are skipped.
triton-server: $(READY)
	@$(BIN)/python tests/triton_server.py

# TensorRT 11's Python bindings without its library, only to read which names they have; where they cannot be had the
# test that the committed list is theirs is skipped.
tensorrt-names: $(READY)
	@$(BIN)/python tests/tensorrt_names.py

# Both install a wheel of this checkout into environments outside of it, and run tests/installed there.
test-lowest: $(READY) engines/demo/manifest.json ## Detect with the oldest releases that pyproject.toml allows (LOWEST_EXTRAS=...)
	@$(BIN)/python tests/environments.py --bundle engines/demo --lowest --extras "$(LOWEST_EXTRAS)"

test-pythons: $(READY) engines/demo/manifest.json ## Install and run the wheel on each Python that is here (PYTHONS="...")
	@$(BIN)/python tests/environments.py --bundle engines/demo --pythons "$(PYTHONS)"

# Both take the packages that are there and install nothing: on a machine without network, `make test-gpu PYTHON=python3`.
GPU_PYTHON = $(if $(filter command,$(origin PYTHON)),$(PYTHON),$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)))

test-gpu: ## Run the tests that need an NVIDIA GPU; each says why it is skipped (PYTHON=python3, nothing is installed)
	@PYTHONPATH=. $(GPU_PYTHON) -m pytest -c tests/gpu/any_pytest.ini --rootdir . --confcutdir . -q -rN tests/gpu $(ARGS)

bench-gpu: ## Measure all there is on an NVIDIA GPU within eight minutes into gpu-results/ (PYTHON=python3, ARGS="--minutes 20")
	@PYTHONPATH=. $(GPU_PYTHON) benchmarks/gpu/run.py $(ARGS)

lint: $(READY) ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean: ## Remove caches, build products and the demo's files; keeps .venv and your bundles
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output engines/demo
	find glip_export tests -name __pycache__ -type d -prune -exec rm -rf {} +
