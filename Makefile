# Every target sets up what it needs from a bare clone: its own virtual environment, with the tested versions.
#   make run        run experiments.yaml on the embedded models
#   make test       the tests (make test-all: the slow ones too)
#   make check      format, lint, types, tests
#   make mutation   faults put into a copy, and what finds them: docs/mutation.md
#   make models     make the embedded models again
#   make docs       the documentation as a site in build/site; warnings are errors
# TORCH= asks for another torch, for example
#   make run TORCH='torch==2.13.0 --index-url ADDRESS-OF-ANOTHER-BUILD'

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready-$(shell printf '%s' "$(TORCH)" | cksum | cut -d ' ' -f 1)

.PHONY: run test test-all check format mutation models docs clean

run: $(READY)
	OMP_WAIT_POLICY=passive $(BIN)/et run experiments.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutation: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation

models: $(READY)
	$(BIN)/python -m nnsight_et.zoo.make

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) build *.egg-info

# torch first and by itself, so that the rest takes the build that was asked for; constraints on everything but torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet $(TORCH) -c $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-*
	touch $@
