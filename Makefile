# `make run` and `make test` set up whatever they need; everything lives in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
N ?= 5000

# The tests start hundreds of services, each of which would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint types bench simulate readme screenshots clean

run: $(VENV)/run
	@exec $(BIN)/python app.py

# Hundreds of runs at three nodes, which are taken for dead when they are slow, have the machine to themselves. Most of
# the others wait for a real process, not for a processor: four at a time suit two cores. They stay in their order, as
# what a package shares is made again by each worker that comes back to it.
test: $(VENV)/dev
	@.ci/system-packages postgresql redis-server iproute2 nginx-light chromium systemd
	@command -v npm >/dev/null || .ci/system-packages nodejs npm
	@$(MAKE) --no-print-directory tests/page/node_modules
	$(BIN)/pytest tests/faults/test_faults.py
	$(BIN)/pytest -n 4 --dist loadfile --no-loadscope-reorder --ignore tests/faults/test_faults.py

# What tests the page's accessibility. Without npm those tests are skipped, and say so.
tests/page/node_modules: tests/page/package-lock.json
	@! command -v npm >/dev/null || npm --prefix tests/page ci --silent --no-audit --no-fund
	@! test -d $@ || touch $@

# docs/screenshots, of the real service in a real browser.
screenshots: $(VENV)/dev
	@.ci/system-packages chromium
	$(BIN)/python -m tests.page.screenshots

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

# Beside what it can't beat and what others do: make bench SCENARIO=s1,s3 TARGET=odysseus,limit
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(TARGET),--target $(TARGET))

# A failing seed is printed; `make simulate SEED=..` replays its schedule.
simulate: $(VENV)/dev
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--n $(N))

# The README's table of settings, made from the code.
readme: $(VENV)/run
	$(BIN)/python -m tests.readme

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Odysseus needs Python 3.11 or newer; name one with make PYTHON=..")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/system-packages python3-venv
	$(PYTHON) -m venv $(VENV)

$(VENV)/run: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/run $@

$(VENV)/bench: $(BIN)/python setup.cfg
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $(VENV)/run $@
