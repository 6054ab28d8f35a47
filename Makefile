# make demo · make test · make ui · make web · make check · make bench · make soak
# DATA=folder chooses another data root, POSTGRES=host a Postgres for Dagster's storage
PYTHON ?= python3
DATA ?= dermatome_data
PORT ?= 3000
WEB_PORT ?= 7860
OUT ?= build/benchmarks
EXTRAS ?= platform,dev

BIN := .venv/bin
INSTALLED := .venv/.installed

export DAGSTER_HOME := $(CURDIR)
export DERMATOME_DATA := $(abspath $(DATA))
export DERMATOME_DAGSTER_STORAGE := $(DERMATOME_DATA)/dagster
export DAGSTER_DISABLE_TELEMETRY := yes
export PYTHONUNBUFFERED := 1

# Dagster looks for its settings under one name only: a Postgres has them under that name in a folder of their own.
ifdef POSTGRES
export PGHOST := $(POSTGRES)
export PGPORT ?= 5432
export PGUSER ?= dermatome
export PGDATABASE ?= dermatome
export DAGSTER_HOME := $(DERMATOME_DAGSTER_STORAGE)/postgres
endif

.PHONY: help install home demo test ui web check docs space bench soak clean

help:
	@echo "make demo    the whole pipeline on a small embedded cohort, no network needed"
	@echo "make test    the whole test suite"
	@echo "make ui      the Dagster UI on http://127.0.0.1:$(PORT) over the same data root"
	@echo "make web     the web app on http://127.0.0.1:$(WEB_PORT): the atlas, nuclei or skin layers of an image, ROIs"
	@echo "make check   format, lint, types, import directions, definitions, wheel contents"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make space   the web app as a Hugging Face Space, in build/space, with the tissue champion of the data root"
	@echo "make bench   how fast it is: ROWS='name name' for some of it, OUT=folder for the table"
	@echo "make soak    everything that goes wrong, at once, on a small disk: ARGS='--kills 60 --seed 2'"
	@echo "EXTRAS=...   what to install: platform,dev by default; spatialdata for that export"
	@echo "DATA=folder  another data root than ./dermatome_data"
	@echo "POSTGRES=host  Dagster's storage in a Postgres: see docs/howto/postgres.md"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"Dermatome needs Python 3.11 to 3.13, and $(PYTHON) is {v[0]}.{v[1]}: try make PYTHON=python3.11")'
	@echo "Installing into .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

home:
	@mkdir -p $(DERMATOME_DAGSTER_STORAGE) $(DAGSTER_HOME)
ifdef POSTGRES
	@ln -sf $(CURDIR)/dagster.postgres.yaml $(DAGSTER_HOME)/dagster.yaml
endif

demo: $(INSTALLED) home
	$(BIN)/python -m orchestration.demo

test: $(INSTALLED)  # three processes on two cores, as one of them mostly waits
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder $(ARGS)

ui: $(INSTALLED) home
	$(BIN)/python -m orchestration.ui --port $(PORT)

web: $(INSTALLED)
	$(BIN)/dermatome web --data $(DERMATOME_DATA) --port $(WEB_PORT)

check: $(INSTALLED) home docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dagster definitions validate
	$(BIN)/python -m pipelines_tests.wheel_contents

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

space: $(INSTALLED)
	rm -rf build/space && mkdir -p build/space/data
	cp deploy/space/* constraints.txt build/space
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/space .
	@champion=tissue_champion/current/record.json; if [ -f $(DERMATOME_DATA)/$$champion ]; then set -e; \
		version=$$($(BIN)/python -c 'import json, sys; print(json.load(open(sys.argv[1]))["values"]["version"])' $(DERMATOME_DATA)/$$champion); \
		cd $(DERMATOME_DATA); cp --parents $$champion tissue_weights/$$version/weights.json tissue_weights/$$version/weights.safetensors $(CURDIR)/build/space/data; \
		echo "build/space has the tissue champion $$version"; \
	else touch build/space/data/.keep; echo "build/space has no tissue champion, as $(DATA) has none"; fi

bench: $(INSTALLED)
	$(BIN)/python -m pipelines_tests.benchmarks $(ROWS) --out $(OUT)

soak: $(INSTALLED)
	$(BIN)/python -m pipelines_tests.soak $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
