# Two commands for users: `make demo` and `make test`. Both need only Python >= 3.11 and can be run again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APART := tests/models tests/cli tests/bench tests/sparse
SOURCES := $(shell find permsolve solvers instances benchmarks tests -name '*.py' 2>/dev/null)

.PHONY: demo test test-apart test-rest test-slow lint typecheck bench clean

# The environment of the demo: the package and pictures. `make test` adds torch and the test tools.
$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "permsolve needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[plot]'
	touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

# Solves a real matrix that ships with the package, compares a few methods and draws two pictures.
demo: $(VENV)/.demo
	@mkdir -p out
	$(BIN)/permsolve solve instances/data/digits_cnn_conv5.npy --json out/permutation.json --plot out/before_after.png
	$(BIN)/permsolve check out/permutation.json instances/data/digits_cnn_conv5.npy
	$(BIN)/permsolve compare instances/data/digits_cnn_conv5.npy --time-limit 1 --plot out/anytime.png \
		--methods identity,ria,channel_swap,stripe_groups,local_search,annealing,auto

# Two processes side by side, as most tests use one core. (Not pytest-xdist: tests that interrupt themselves end its workers.)
test: $(VENV)/.dev
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-apart test-rest

test-apart:
	$(BIN)/python -m pytest $(APART)

test-rest:
	$(BIN)/python -m pytest tests $(APART:%=--ignore=%)

# The suite with its long runs: more random graphs, all traps, all kinds of matrices.
test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest --slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(MAKE) --no-print-directory typecheck

# mypy cannot follow an editable install whose folders have other names than its packages: give it a tree of links.
typecheck: $(VENV)/.dev
	@rm -rf .typing && mkdir -p .typing/permsolve
	@for entry in permsolve/*; do ln -s ../../$$entry .typing/permsolve/; done
	@ln -s ../../solvers .typing/permsolve/solvers && ln -s ../../instances .typing/permsolve/instances
	cd .typing && ../$(BIN)/mypy --config-file ../pyproject.toml -p permsolve

# Prints the tables that the README quotes and writes benchmarks/results/*.json; about an hour.
bench: $(VENV)/.demo
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/certificates.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/hierarchical.py
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	$(BIN)/python benchmarks/models.py

clean:
	rm -rf $(VENV) .typing out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find permsolve solvers instances tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
