# make demo                              registers a pair made for the purpose
# make demo FIXED=a.nii.gz MOVING=b.nii.gz   registers two images of yours (OUT=folder, ARGS="--preset fine" …)
# make paper-2d                          the 2-D experiment of the DeepFLASH paper
# make synthetic-2d                      ICON, GradICON, NePhi and FLASH on triangles and circles
# make paper-3d                          its 3-D comparison with its baselines (ARGS="--data FOLDER")
# make test                              runs the tests and the linter
# make help                              lists the rest

PYTHON ?= python3
VENV ?= .venv
FIXED ?=
MOVING ?=
ARGS ?=
SLICER ?=

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PHANTOM := demo/phantom
RUN_READY := $(VENV)/.run-ready
TEST_READY := $(VENV)/.test-ready
# A folder that was named is the user's: only ARGS=--force overwrites it.
FORCE = $(if $(filter file,$(origin OUT)),--force)
# Files of tests by as many processes as there are cores, each of one thread and some 2 GB; PARALLEL= for one alone.
PARALLEL = --numprocesses=auto --maxprocesses=4 --dist=loadfile
INSTALLED_BY := pyproject.toml Utilities/environment.py

.PHONY: help demo paper-2d synthetic-2d paper-3d test lint test-slicer bench clean distclean
.DEFAULT_GOAL := help

help:
	@echo "make demo                                  register a pair made for the purpose, into demo/result"
	@echo "make demo FIXED=a.nii.gz MOVING=b.nii.gz   register two images of yours [OUT=folder] [ARGS=\"--preset fine\"]"
	@echo "make paper-2d                              the 2-D experiment of the DeepFLASH paper [ARGS=\"--training 100 …\"]"
	@echo "make synthetic-2d                          ICON, GradICON, NePhi, FLASH on triangles and circles [ARGS=\"--minutes 5 …\"]"
	@echo "make paper-3d                              its 3-D comparison with its baselines [ARGS=\"--data FOLDER …\"]"
	@echo "make test                                  all tests and the linters [ARGS=\"-k name\"]"
	@echo "make lint                                  the linters alone, and whether all is formatted"
	@echo "make test-slicer SLICER=/path/to/Slicer    the tests that need a real Slicer"
	@echo "make bench                                 the benchmarks, with printed figures [BENCH=name] [ARGS=…]"
	@echo "make clean, make distclean                 remove what was made; also the environment"

$(RUN_READY): $(INSTALLED_BY)
	"$(PYTHON)" Utilities/environment.py --venv "$(VENV)" --for run
	@touch "$@"

$(TEST_READY): $(INSTALLED_BY)
	"$(PYTHON)" Utilities/environment.py --venv "$(VENV)" --for test
	@touch "$(RUN_READY)" "$@"

ifeq ($(FIXED)$(MOVING),)
demo: OUT ?= demo/result
demo: $(PHANTOM)/.made
	"$(BIN)/deepflash" register $(PHANTOM)/fixed.nii.gz $(PHANTOM)/moving.nii.gz \
	  --fixed-labels $(PHANTOM)/fixed_labels.nii.gz --moving-labels $(PHANTOM)/moving_labels.nii.gz \
	  --truth $(PHANTOM)/truth_fixed_to_moving.nii.gz -o "$(OUT)" $(FORCE) $(ARGS)
	@echo "Look at $$(cd "$(OUT)" && pwd)/report.html"
else
demo: OUT ?= demo/registered
demo: $(RUN_READY)
	@test -n "$(FIXED)" -a -n "$(MOVING)" || { echo "Both are needed: make demo FIXED=a.nii.gz MOVING=b.nii.gz" >&2; exit 2; }
	"$(BIN)/deepflash" register "$(FIXED)" "$(MOVING)" -o "$(OUT)" $(FORCE) $(ARGS)
	@echo "Look at $$(cd "$(OUT)" && pwd)/report.html"
endif

$(PHANTOM)/.made: | $(RUN_READY)
	"$(BIN)/deepflash" phantom $(PHANTOM) --force
	@touch "$@"

paper-2d: $(RUN_READY)
	"$(BIN)/python" Utilities/paper_2d.py $(ARGS)

synthetic-2d: $(TEST_READY)
	"$(BIN)/python" Utilities/synthetic_2d.py $(ARGS)

paper-3d: $(TEST_READY)
	"$(BIN)/python" Utilities/paper_3d.py $(ARGS)

test: $(TEST_READY)
	"$(BIN)/python" -m ruff check .
	"$(BIN)/lint-imports" --no-logo --no-cache
	"$(BIN)/python" -m pytest $(PARALLEL) $(ARGS)

lint: $(TEST_READY)
	"$(BIN)/python" -m ruff check .
	"$(BIN)/lint-imports" --no-logo --no-cache
	"$(BIN)/python" -m ruff format --check .

test-slicer:
	@"$(PYTHON)" Utilities/test_in_slicer.py $(if $(SLICER),"$(SLICER)") $(ARGS)

bench: $(TEST_READY)
	@set -e; for script in $(if $(BENCH),Testing/benchmarks/$(BENCH).py,$(sort $(wildcard Testing/benchmarks/*.py))); do \
	  echo "== $$script"; "$(BIN)/python" "$$script" $(ARGS); done

clean:
	rm -rf demo build dist .pytest_cache .ruff_cache DeepFLASHRegistration/*.egg-info
	find DeepFLASHRegistration Testing Utilities -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"
