# The two commands of a fresh machine: `make bench` and `make test`. Each makes its own environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -n 2 --dist worksteal
OUT ?= results
# What `make gpu` runs in less than ten minutes: configurations and the seconds after which each is stopped. docs/cuda.md has the others.
GPU_RUNS ?= gpu-modes:240 gpu-seeds:180
# The limits behind the predictions of all of them, measured once.
CALIBRATE ?= timeout 120 $(PYTHON) -m nanobench calibrate --device cuda --dtype bfloat16
STAMP := $(shell date +%Y%m%d-%H%M%S)

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

bench: $(VENV)/run  ## install, then the default sweep with its plots and report
	$(BIN)/nanobench kv-sweep --batch 1,4,8,16,32,64,93
	$(BIN)/nanobench report

report: $(VENV)/run  ## the report of the newest run in results/
	$(BIN)/nanobench report

reference: $(VENV)/run  ## measure the reference runs in results/ again, replace each old one once its new one is complete, draw docs/gallery
	rm -rf results/new-reference
	$(BIN)/nanobench kv-sweep --batch 1,4,8,16,32,64,93 --out results/new-reference/reference-cpu
	$(BIN)/nanobench report results/new-reference/reference-cpu
	$(BIN)/nanobench train-throughput --compile --out results/new-reference/reference-train-cpu
	$(BIN)/nanobench report results/new-reference/reference-train-cpu
	for run in reference-cpu reference-train-cpu; do \
		rm -rf results/$$run && mv results/new-reference/$$run results/$$run || exit 1; \
		sed -i 's#results/new-reference#results#' results/$$run/run.json results/$$run/report.md; \
		rm -rf results/$$run/logs results/$$run/report.html results/$$run/cells.arrow; \
	done
	rmdir results/new-reference
	$(BIN)/python docs/make_gallery_page.py

test: $(VENV)/dev  ## install, then all tests but the slow ones
	$(PYTEST) -m "not slow and not cluster"

test-all: $(VENV)/dev  ## install, then all tests
	$(PYTEST)

test-cluster: $(VENV)/dev  ## a sweep on real Slurm and on real Ray, both on this machine, as far as they can be installed
	tests/cluster.sh $(BIN)/python

test-remote: $(VENV)/dev $(VENV)/moto/bin/moto_server  ## install a server that speaks S3, then the tests against it
	PATH="$(CURDIR)/$(VENV)/moto/bin:$$PATH" $(BIN)/pytest tests/test_s3.py

# In an environment of its own: its dependencies do not fit to constraints.txt.
$(VENV)/moto/bin/moto_server: | $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)/moto
	$(VENV)/moto/bin/pip install --quiet "moto[server]"

lint: $(VENV)/dev  ## style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

type: $(VENV)/dev  ## types
	$(BIN)/mypy

check: lint type test-all  ## what CI runs

gpu:  ## the sweeps of GPU_RUNS on CUDA from this checkout, without an install, each stopped after its seconds; one archive in OUT
	PYTHONPATH=src $(CALIBRATE) || echo "no limits were stored: each sweep measures its own"
	for sweep in $(GPU_RUNS); do \
		name=$${sweep%:*}; run=$(OUT)/gpu-$(STAMP)/$$name; \
		PYTHONPATH=src timeout --signal=TERM --kill-after=5 $${sweep#*:} $(PYTHON) -m nanobench run $$name --out $$run \
			|| echo "$$name ended with $$?; what it finished is saved"; \
		tar -C $(OUT) --exclude=scratch -czf $(OUT)/gpu-$(STAMP).tar.gz gpu-$(STAMP); \
	done
	rm -r $(OUT)/gpu-$(STAMP)

columns: $(VENV)/run  ## write docs/columns.md again, after a change of columns
	$(BIN)/python docs/make_columns_page.py > docs/columns.part && mv docs/columns.part docs/columns.md

clean:  ## remove the environment and caches; results stay
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/run: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/run

.PHONY: help bench report reference test test-all test-cluster test-remote lint type check gpu columns clean
