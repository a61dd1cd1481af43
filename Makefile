# make quickstart   install into .venv and run the main job
# make test         install the test extras and run everything that is not slow
# make check        lint, types and the direction of imports
# make browser      install Debian's Chromium, where apt may, for the viewer's tests; without it they are skipped

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test check slow browser clean

quickstart: .venv/installed
	$(BIN)/monosem quickstart

test: .venv/tests-installed
	$(BIN)/python -m pytest -n auto --dist loadfile

slow: .venv/tests-installed
	$(BIN)/python -m pytest -m slow

check: .venv/dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/test_floors.py

browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qq --yes chromium >/dev/null; } || \
		echo "CHROMIUM COULD NOT BE INSTALLED: the viewer's pages will not be tested in a browser." >&2

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "monosem needs Python 3.11 or newer; name one with: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/tests-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

.venv/dev-installed: .venv/tests-installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist
