# `make demo` and `make test` set everything up, from nothing but Python 3.11+, g++ and make, in .venv.
# PYTHON picks another interpreter; TORCH another torch, with pip's own options if need be.
PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Without --no-compile pip compiles every file of torch, of which a tenth is ever imported. Those are compiled once, by
# whoever imports them first, even where the environment would have every process do it again: tests start hundreds.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-compile
NATIVE := setup.py pyproject.toml neurokernels/_version.py $(shell find csrc -type f)

# The libraries that tests and benchmarks compare with. Their declared needs would replace torch: only what they import is added.
PEERS := spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0 nir==1.0.8 nirtorch==2.6 \
  cca-zoo==4.0.1 mvlearn==0.5.0 rsatoolbox==0.3.2
PEER_NEEDS := loguru h5py seaborn scikit-image joblib coverage petname networkx tqdm

.PHONY: demo test bench lint sanitize build gpu-proof gpu-wheels clean distclean

demo: $(VENV)/demo.stamp
	$(BIN)/neurokernels train spiking --quick $(ARGS)
	$(BIN)/neurokernels train spectral --quick $(ARGS)
	$(BIN)/neurokernels train dcca --quick $(ARGS)
	$(BIN)/neurokernels train maze --quick $(ARGS)
	$(BIN)/neurokernels train similarity --quick $(ARGS)

test: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal --durations=20 $(ARGS)

bench: $(VENV)/test.stamp
	$(BIN)/pytest --benchmark $(ARGS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@git ls-files -co --exclude-standard '*.py' '*.pyi' '*.cpp' '*.h' '*.cu' '*.cuh' | xargs wc -l \
	  | awk '$$1 > 500 && $$2 != "total" { print $$2 ": " $$1 " lines, at most 500 are allowed"; bad = 1 } END { exit bad }'

# The core with AddressSanitizer and UBSan, in a copy of the package; libstdc++ goes first so that exceptions are seen.
sanitize: $(VENV)/test.stamp
	NEUROKERNELS_SANITIZE=1 NEUROKERNELS_NATIVE=require $(BIN)/python setup.py -q build --build-lib build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=build/sanitize \
	  $(BIN)/pytest -o pythonpath="build/sanitize ." $(or $(ARGS),tests/ops tests/core)

# After a change in csrc: the quick way to a new core, one second if there is nothing to do.
build: $(VENV)/test.stamp
	NEUROKERNELS_NATIVE=require $(BIN)/python setup.py -q build_ext --inplace

# On a machine with a CUDA GPU, by the Python whose torch sees it; needs no network. See docs/gpu.md.
gpu-proof:
	$(PYTHON) tools/gpu_proof.py --part "$(PART)" --stage "$(STAGE)" $(ARGS)

# Peer libraries for it, fetched where there is a network: Python alone, no packages of the machine's.
gpu-wheels:
	PYTHONPATH=tools $(PYTHON) tools/proof/peers.py

clean:
	rm -rf build dist *.egg-info neurokernels/_native*.so neurokernels/_build.json neurokernels/_cuda $(VENV)/*.stamp
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find neurokernels tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(VENV)/torch.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' 'pybind11>=2.13' ninja
	@# The core knows no torch: it is compiled while torch comes, and pip finds nothing left to compile.
	$(BIN)/python setup.py -q build_ext --inplace & $(PIP) $(TORCH); status=$$?; wait; exit $$status
	touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp $(NATIVE)
	$(PIP) -e '.[train]'
	touch $@

$(VENV)/test.stamp: $(VENV)/torch.stamp $(NATIVE) Makefile
	NEUROKERNELS_NATIVE=require $(PIP) -e '.[dev,train,bench]' $(PEER_NEEDS)
	$(PIP) --no-deps $(PEERS)
	touch $@
