# Everything here needs Python 3.11 or newer, make and pip. Targets that need more say so.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RAY := .venv/.ray

.PHONY: help demo test test-fast test-ray test-recipes test-wheel dist image mutants check lint soak soak-rows soak-ray bench bench-peers bench-scale docs picture figures bench-sandbox bench-pacing bench-pacing-sim bench-pacing-constants bench-ray bench-report bench-workbook bench-commands bench-finished bench-page bench-row lock clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# Python compiles a module when it first imports it. To compile all of them takes a third of an installation.
INSTALL = $(BIN)/pip install --quiet --no-compile

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("This needs Python 3.11 or newer. Name one: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv --clear .venv
	$(INSTALL) --require-hashes --requirement requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Ray has a separate lock, so that the first command of a new user does not wait for it.
$(RAY): requirements-ray.lock $(READY)
	$(INSTALL) --require-hashes --requirement requirements-ray.lock
	@touch $@

demo: $(READY)  ## run the main job against the local sandbox: no key, no cost
	$(BIN)/pipeline run jobs/stories.yaml --sandbox

# The tests wait for half of their time, so one more than the cores.
WORKERS = $(shell $(PYTHON) -c 'import os; print(1 + (os.cpu_count() or 1))')
test: $(READY)  ## run the tests, on all cores
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-fast: $(READY)  ## run the unit tests, in about a minute
	$(BIN)/python -m pytest -n auto --dist worksteal tests/unit

test-ray: $(RAY)  ## install ray and run its tests, one by one because each has a cluster
	$(BIN)/python -m pytest -m 'ray and not long'

# Airflow, Prefect and the peers below are installed without hashes: each pins hundreds of packages.
# Their environments get no key, and nothing in them is part of a release.
RECIPES = .recipes
test-recipes: $(READY)  ## install Airflow, Prefect and a notebook, and run the recipes of docs/recipes.md in them
	@test -x $(RECIPES)/airflow/bin/pipeline || { $(PYTHON) -m venv $(RECIPES)/airflow && $(RECIPES)/airflow/bin/pip install -q apache-airflow --editable .; }
	@test -x $(RECIPES)/prefect/bin/pipeline || { $(PYTHON) -m venv $(RECIPES)/prefect && $(RECIPES)/prefect/bin/pip install -q prefect --editable .; }
	@test -x $(RECIPES)/notebook/bin/pipeline || { $(PYTHON) -m venv $(RECIPES)/notebook && $(RECIPES)/notebook/bin/pip install -q ipykernel ipywidgets nbclient --editable .; }
	$(BIN)/python -m pytest tests/commands/test_recipes.py

# The same commit gives the same bytes: every time in the archives is that of the commit.
DIST = dist
dist: $(READY)  ## build the wheel and the source archive in dist/, the same bytes each time
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -d $(DIST)

# A stale wheel must not get into the image.
BUILDER = docker
image: $(READY)  ## build the container image paidrows (BUILDER=podman for another builder)
	rm -f dist/*.whl
	@$(MAKE) --no-print-directory dist
	$(BUILDER) build --file Containerfile --tag paidrows .

# Not part of check: it downloads and installs everything again for each Python of the machine. That
# takes a minute each and needs the package index.
WHEEL = .wheel
test-wheel: $(READY)  ## build the wheel, and test it on each installed Python from 3.11 to 3.14
	rm -rf $(WHEEL)/dist
	@$(MAKE) --no-print-directory dist DIST=$(WHEEL)/dist
	TESTED_DIST=$(WHEEL)/dist $(BIN)/python -m pytest -rs tests/commands/test_wheel.py

# Not part of check: it takes hours, and a person has to read its output.
MUTANTS = .mutants
mutants: $(READY)  ## install mutmut and list the code changes that no test notices, in the modules that decide and store
	@test -x $(MUTANTS)/bin/mutmut || { $(PYTHON) -m venv $(MUTANTS) && $(MUTANTS)/bin/pip install -q --require-hashes -r requirements.lock && $(MUTANTS)/bin/pip install -q --require-hashes -r requirements-tools.lock && $(MUTANTS)/bin/pip install -q --no-deps --no-build-isolation --editable .; }
	nice $(MUTANTS)/bin/mutmut run --max-children 2
	$(MUTANTS)/bin/python tests/support/survivors.py

# Ray is installed during the lint, and before the tests: they share one environment. Both test targets run at
# once, because they mostly wait.
check: $(READY)  ## lint, types, import contracts and tests; every commit passes this
	+@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint $(RAY)
	+@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test test-ray

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Both at once, because they mostly wait: three tests at a time, and those of Ray one by one, because each
# has a cluster.
soak: $(RAY)  ## run the long tests; do it before you close an issue
	+@$(MAKE) --no-print-directory --jobs=2 --output-sync=target soak-rows soak-ray

soak-rows: $(RAY)
	$(BIN)/python -m pytest -m 'long and not ray' -n 3 --maxschedchunk=1 --durations=20

soak-ray: $(RAY)
	$(BIN)/python -m pytest -m 'long and ray' --durations=5

bench: $(READY)  ## measure CPU per row, compared with plain httpx and bare aiohttp
	$(BIN)/python benchmarks/throughput.py

PEERS = .bench
bench-peers: $(READY)  ## install bespokelabs-curator and Ray Data, and compare with them too
	@test -d $(PEERS)/curator || { $(PYTHON) -m venv $(PEERS)/curator && $(PEERS)/curator/bin/pip install -q bespokelabs-curator; }
	@test -d $(PEERS)/ray || { $(PYTHON) -m venv $(PEERS)/ray && $(PEERS)/ray/bin/pip install -q 'ray[data]' aiohttp pydantic; }
	$(BIN)/python benchmarks/throughput.py --curator $(PEERS)/curator/bin/python --ray $(PEERS)/ray/bin/python

bench-scale: $(READY)  ## measure each command at 1,000 to 1,000,000 rows and how it grows, and 5,000 requests in flight
	$(BIN)/python benchmarks/scale.py in-flight
	$(BIN)/python benchmarks/scale.py rows

docs: $(READY)  ## write docs/cli.md from --help, docs/python-reference.md from docstrings, the keys in docs/job-file.md
	$(BIN)/python docs/reference.py

picture: $(READY)  ## draw the pictures in README.md and docs/; needs Chromium for the pages
	$(BIN)/python docs/record.py --write

figures: $(READY)  ## write the stored results of the benchmarks into the tables in docs/
	$(BIN)/python benchmarks/figures.py --write

bench-ray: $(RAY)  ## measure a Ray cluster: one driver's speed, the workers' capacity, and Ray Data, which it installs
	$(BIN)/python benchmarks/cluster.py ceiling
	$(BIN)/python benchmarks/cluster.py in-flight
	@test -d $(PEERS)/cluster || { $(PYTHON) -m venv $(PEERS)/cluster && $(PEERS)/cluster/bin/pip install -q --require-hashes -r requirements-ray.lock && $(PEERS)/cluster/bin/pip install -q 'ray[data]' pydantic && $(PEERS)/cluster/bin/pip install -q --no-deps --editable .; }
	$(PEERS)/cluster/bin/python benchmarks/cluster.py peer

bench-sandbox: $(READY)  ## measure the sandbox: runs per second on one core, and memory
	$(BIN)/python benchmarks/sandbox.py

bench-pacing: $(READY)  ## measure use of the limit and 429s, compared with fixed concurrency and a configured limiter
	$(BIN)/python benchmarks/pacing.py

bench-pacing-sim: $(READY)  ## measure the pacing on a virtual clock over hundreds of limiters (SET=held, ALONE=1, OTHER=another release's checkout)
	$(BIN)/python benchmarks/pacing_sim.py --set $(or $(SET),tuning) $(if $(ALONE),--alone) $(if $(OTHER),--other $(OTHER))

bench-pacing-constants: $(READY)  ## measure what each constant of the pacing does at half and at double its value (an hour)
	$(BIN)/python benchmarks/pacing_constants.py

bench-report: $(READY)  ## measure seconds, memory and size of a million rows' report, with 2 % and with half of them failed
	$(BIN)/python benchmarks/report.py

bench-workbook: $(READY)  ## measure reading and exporting a workbook of 200,000 rows, compared with openpyxl
	$(BIN)/python benchmarks/workbook.py

OTHER =
bench-commands: $(READY)  ## measure CPU and memory of each command on 260 rows, compared with another release (OTHER=its checkout or its Python)
	$(BIN)/python benchmarks/commands.py $(if $(OTHER),--other $(OTHER))

bench-finished: $(READY)  ## measure the commands of a million finished rows, compared with another release (OTHER=its checkout)
	$(BIN)/python benchmarks/finished.py --other $(OTHER)

bench-page: $(READY)  ## measure the screens of the page for a million rows, compared with another release (OTHER=its checkout)
	$(BIN)/python benchmarks/page.py $(if $(OTHER),--other $(OTHER))

bench-row: $(READY)  ## count the instructions of one row with valgrind, compared with another release (OTHER=its checkout)
	$(BIN)/python benchmarks/row.py $(if $(OTHER),--other $(OTHER))

lock:  ## pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes \
	  --python-version 3.11 --no-emit-index-url --no-header --upgrade --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra ray --constraint requirements.lock --universal \
	  --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --quiet \
	  -o requirements-ray.lock
	printf 'mutmut\npynacl\n' | uv pip compile - --constraint requirements.lock \
	  --constraint requirements-ray.lock --universal --generate-hashes --python-version 3.11 \
	  --no-emit-index-url --no-header --quiet -o requirements-tools.lock

clean:  ## remove everything that make built; runs and their results stay
	rm -rf .venv .mutants mutants build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
