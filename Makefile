# make demo, make test: all that a fresh machine needs. Each target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
BENCH := .venv-bench/bin

FUZZ_SECONDS ?= 60

.PHONY: help demo test slow check format bench faults fuzz supported versions wheels clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

.venv/ready: pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ./runtime --editable ".[export]" --group dev
	touch $@

demo: .venv/ready  ## train and export emb_rnn, then infer: prints ohlol
	$(BIN)/rnnx train --model emb_rnn
	$(BIN)/rnnx export --model emb_rnn
	$(BIN)/rnnx infer artifacts/model.onnx --text hello

test: .venv/ready  ## all tests, the heaviest in a reduced size
	$(BIN)/python -m pytest -m "not slow"

slow: .venv/ready  ## the heaviest tests in full: half an hour
	$(BIN)/python -m pytest -m slow

check: .venv/ready  ## lint, format and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready  ## put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers are many and large, so they have an environment of their own. One that cannot be installed is left out, and the report says so.
PEERS = $(shell $(PYTHON) -c 'import tomllib; print(*map(repr, tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["bench"]))')

.venv-bench/ready: pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BENCH)/python -m pip install --quiet --constraint constraints.txt --editable ./runtime --editable ".[export,plot]"
	for peer in $(PEERS); do \
		$(BENCH)/python -m pip install --quiet --constraint constraints.txt "$$peer" || echo "$$peer cannot be installed here"; \
	done
	touch $@

bench: .venv-bench/ready  ## the benchmarks: ten minutes, on a machine that does nothing else; QUICK=1: two minutes
	$(BENCH)/python -m benchmarks $(if $(QUICK),--quick)

faults: .venv/ready  ## everything that can go wrong, in full: half an hour; writes docs/faults.md
	$(BIN)/python -m tests.faults --write docs/faults.md

# Atheris has libFuzzer in it, for Linux; what it finds on its way stays in build/fuzz, what breaks a target is kept in tests/fuzz.
build/fuzz/venv/ready: pyproject.toml runtime/pyproject.toml constraints.txt
	$(PYTHON) -m venv build/fuzz/venv
	build/fuzz/venv/bin/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	build/fuzz/venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ./runtime --group fuzz
	touch $@

fuzz: build/fuzz/venv/ready  ## coverage-guided fuzzing of what reads files: FUZZ_SECONDS=60 for each target
	for target in artifact manifest snapshot; do \
		build/fuzz/venv/bin/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; \
	done

supported: .venv/ready  ## write docs/supported.md anew, from the exports of the corpus
	RNNX_WRITE_SUPPORTED=1 $(BIN)/python -m pytest tests/export/test_corpus.py

versions:  ## the tests with the oldest and the newest versions, each in an environment of its own; writes docs/supported.md
	$(PYTHON) -m tests.versions

wheels: .venv/ready  ## build both wheels into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist ./runtime .

clean:  ## remove what was built; your artifacts stay
	rm -rf .venv .venv-bench build dist .mypy_cache .ruff_cache .pytest_cache
