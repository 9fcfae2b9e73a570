# make help prints what there is. PYTHON, VENV, MMEXT_CACHE and MAX_JOBS may be set on the command line.
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?=
DEMO_SEEDS ?= 0
BENCH_DATA ?=
BIN := $(VENV)/bin
export MMEXT_CACHE MAX_JOBS

.DEFAULT_GOAL := help
.PHONY: help setup test lint format demo bench clean

help:  ## this list
	@echo 'mmext: fine-tune instance segmentation with MMDetection and see what every part of the network does'
	@grep -hE '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16
	@echo 'Settings: PYTHON=python3.11 VENV=.venv MMEXT_CACHE=~/.cache/mmext MAX_JOBS=2'

setup:  ## virtual environment with the pinned stack, mmcv and mmext; goes on where it was interrupted
	@python='$(PYTHON)'; \
	if [ -z "$$python" ]; then \
	  for candidate in python3.11 python3.12 python3; do \
	    "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	      && python="$$candidate" && break; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo 'No Python 3.11 or 3.12 with venv was found. Install one (Debian: apt-get install python3 python3-venv),' >&2; \
	  echo 'or name it: make setup PYTHON=/path/to/python3.11' >&2; exit 2; \
	fi; \
	"$$python" tools/setup_env.py --venv '$(VENV)'

test: setup  ## all tests
	'$(BIN)/python' -m pytest

lint: setup  ## ruff: rules and format
	'$(BIN)/ruff' check .
	'$(BIN)/ruff' format --check .

format: setup  ## ruff: mend what it can
	'$(BIN)/ruff' check --fix .
	'$(BIN)/ruff' format .

demo: setup  ## fine-tune the shipped small model at four choices of rates and compare: about 8 minutes; DEMO_SEEDS="0 1 2" repeats
	'$(BIN)/mmext' demo-data data/demo --images 60 --seed 0
	'$(BIN)/python' tools/demo.py --seeds $(DEMO_SEEDS)

bench: setup  ## side by side with stock MMDetection, under 20 minutes; BENCH_DATA=DIR adds your own COCO folder
	@for name in train_pipeline mask_targets mask_output coco_evaluation rpn_assignment cpu_precision own_cost growth \
	  whole_runs gpu; do \
	  echo "== $$name"; \
	  '$(BIN)/python' "benchmarks/performance/$$name.py" $(if $(BENCH_DATA),--data '$(BENCH_DATA)') || exit 1; \
	done
	'$(BIN)/python' benchmarks/performance/tables.py

clean:  ## remove the environment and the demo; your runs in work_dirs stay
	rm -rf '$(VENV)' data/demo work_dirs/demo
