# Needs make and Python >= 3.11, nothing else; see CONTRIBUTING.md.
# Paths are relative and everything runs through .venv/bin/python: the checkout may be anywhere, spaces included.

.PHONY: demo test lint format build bench clean
.DEFAULT_GOAL := test

PY := .venv/bin/python

demo: .venv/installed
	@$(PY) programs/root_search.py --local

test: .venv/installed-dev
	@$(PY) -m pytest --numprocesses=2

lint: .venv/installed-dev
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m tests.imports
	$(PY) -m mypy
	$(PY) -m basedpyright

format: .venv/installed-dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

build: .venv/installed-dev
	rm -rf dist
	$(PY) -m build --quiet
	@ls dist

# QUESTIONS="many round_trip" asks only those; ARGUMENTS=--write puts the figures into docs/benchmarks.md.
bench: .venv-bench/installed
	@.venv-bench/bin/python -m benchmarks $(QUESTIONS) $(ARGUMENTS)

clean:
	rm -rf .venv .venv-bench dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An editable install remembers where it was made, so a checkout that was moved or copied starts afresh.
ifneq "$(shell cat .venv/made-in 2>/dev/null)" "$(CURDIR)"
.PHONY: .venv/made-in
endif

ifneq "$(shell cat .venv-bench/made-in 2>/dev/null)" "$(CURDIR)"
.PHONY: .venv-bench/made-in
endif

.venv/made-in .venv-bench/made-in: scripts/venv
	@scripts/venv $(@D)
	@pwd -P >$@

# -qq: errors only. What was installed is recorded by the stamps, so this runs again only when pyproject.toml changes.
.venv/installed: pyproject.toml .venv/made-in
	@echo "Installing hyperflow into .venv"
	@$(PY) -m pip install -qq -e .
	@touch $@

.venv/installed-dev: pyproject.toml .venv/made-in
	@echo "Installing hyperflow and the development tools into .venv"
	@$(PY) -m pip install -qq -e '.[dev]'
	@touch .venv/installed $@

# The peers have an environment of their own, so that what they need cannot change what is tested.
.venv-bench/installed: pyproject.toml benchmarks/requirements.txt .venv-bench/made-in
	@echo "Installing hyperflow and what it is compared with into .venv-bench"
	@.venv-bench/bin/python -m pip install -qq -e '.[numpy]' -r benchmarks/requirements.txt
	@touch $@
