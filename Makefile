# Needs make and Python >= 3.11, nothing else; see CONTRIBUTING.md.
# Paths are relative and everything runs through .venv/bin/python: the checkout may be anywhere, spaces included.

.PHONY: demo notebook notebooks check test test-again unit model lint style mypy pyright public-types coverage chaos controls mutants matrix lock faces release format build docs docs-peers linkcheck site-pictures bench clean
.DEFAULT_GOAL := test

PY := .venv/bin/python
TOOLS := .venv-tools/bin

# What is imported is compiled once, and kept. Without that, each of the thousands of processes that the tests start
# compiles it anew, for 2.5 times the time; some images have the variable in their environment.
unexport PYTHONDONTWRITEBYTECODE

demo: .venv/installed-plot
	@$(PY) programs/bisection.py --local

# Opens JupyterLab on notebooks/.
notebook: .venv/installed-notebooks
	@$(PY) -m jupyter lab --notebook-dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

# Executes the notebooks from scratch and writes their outputs; NAMES="tour results" for some of them.
notebooks: .venv/installed-dev
	@$(PY) -m tests.notebooks $(NAMES)

# While working: all that takes less than a minute, side by side. What each part prints comes when the part has ended.
check: .venv/installed-dev
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target unit lint

# Four at a time on two cores: many tests wait for something.
ALL := --numprocesses=4 --dist=worksteal
test: .venv/installed-dev
	@$(PY) -m pytest $(ALL)

# A few that fail are played once more, alone; those that pass then are named.
test-again: .venv/installed-dev
	@$(PY) -m tests.again $(ALL)

unit: .venv/installed-dev
	@$(PY) -m pytest -q -m unit --numprocesses=2 --hypothesis-profile=quick

# Random histories of the models in tests/model. HISTORIES=10000000 for a night; SEED=7 for the same ones again.
model: .venv/installed-dev
	@$(PY) -m tests.model $(if $(HISTORIES),--histories $(HISTORIES)) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

lint: style mypy pyright public-types

style: .venv/installed-dev
	$(PY) -m ruff format --check
	$(PY) -m ruff check
	$(PY) -m tests.imports
	.venv/bin/codespell

mypy: .venv/installed-dev
	$(PY) -m mypy

pyright: .venv/installed-dev
	$(PY) -m basedpyright

public-types: .venv/installed-dev
	$(PY) -m tests.public_types

# What their own unit tests reach of the pure modules; it may not fall. ARGUMENTS=--write records what it is now.
PURE := scheduling locking master slurm wire model commands/test_graph.py commands/test_spec.py commands/test_task_file.py commands/test_templates.py database/test_keys.py test_config.py head/test_bulk.py head/test_turns.py pools/joining/test_join_request.py pools/joining/test_walltime.py pools/named/test_lending.py pools/named/test_shares.py pools/test_demand.py pools/test_rules.py
coverage: .venv/installed-dev
	@mkdir -p .coverage
	$(PY) -m coverage run -m pytest -q -m unit --hypothesis-seed=0 --hypothesis-profile=quick $(addprefix tests/,$(PURE))
	$(PY) -m tests.coverage_floor $(ARGUMENTS)

# Attacks real runs for five minutes, with a new seed each time, or CHAOS_SEED; ARGUMENTS="--seconds 1800 --page" for
# longer.
chaos: .venv/installed-dev
	$(PY) -m tests.chaos --remember $(if $(CHAOS_SEED),--seed $(CHAOS_SEED)) $(if $(CHAOS_SECONDS),--seconds $(CHAOS_SECONDS)) $(ARGUMENTS)

# Bugs on purpose: the chaos has to notice each.
controls: .venv/installed-dev
	$(PY) -m tests.chaos.controls $(ARGUMENTS)

# A test for the tests: do they notice a change of the scheduler, the rules of locks, the life of a job?
# tests/mutants.txt explains those that may live.
mutants: .venv-tools/installed
	@rm -rf mutants
	$(TOOLS)/mutmut run --max-children 2
	$(TOOLS)/python -m tests.mutants

# The unit tests with each Python that we support and that is here; pyenv's count, also those that are not switched on.
PYTHONS := $(wildcard $(HOME)/.pyenv/versions/3.1[1-9].*/bin/python)
DISCOVER := $(if $(PYTHONS),--discover $(PYTHONS))
matrix: .venv-tools/installed
	$(TOOLS)/tox run $(DISCOVER) $(if $(ARGUMENTS),-- $(ARGUMENTS))

# requirements-dev.txt: exact versions of all that is installed for development, on every Python that we support.
lock: .venv-tools/installed
	$(TOOLS)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --extra=dev \
		--upgrade --output-file=requirements-dev.txt pyproject.toml

# What a user types first, with the wheel of dist/ and each Python that we support and that is here.
FACES := face-3.11,face-3.12,face-3.13,face-3.14
faces: .venv-tools/installed
	$(TOOLS)/tox run --installpkg $(wildcard dist/*.whl) $(DISCOVER) -e $(FACES)

# Checks and builds what is to be released, and says what is left to do by hand. It publishes nothing.
release: .venv/installed-dev .venv/installed-docs
	@$(PY) scripts/release.py $(ARGUMENTS)

format: .venv/installed-dev
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

build: .venv/installed-dev
	rm -rf dist
	$(PY) -m build --quiet
	@ls dist

# The documentation: as pages, docs/_build/html/index.html, and as one file, docs/_build/html/dev/hyperflow.html. Other
# versions may lie beside it; SITE=1.2.3 makes that one. A warning is an error.
SITE := dev
docs: .venv/installed-docs
	$(PY) -m sphinx -q -W -n --keep-going -b html -d docs/_build/doctrees docs docs/_build/html/$(SITE)

# Asks each address outside of these pages. Not part of .ci/run, which needs no network.
linkcheck: .venv/installed-docs
	$(PY) -m sphinx -q --keep-going -b linkcheck -d docs/_build/doctrees docs docs/_build/links

# Pictures of pages, in headless chromium; PAGES="guides/pools faq" for others.
TARGET := docs/pictures
site-pictures: .venv/installed-dev docs
	$(PY) -m tests.site_pictures $(TARGET) $(PAGES)

# The pages for those who come from other libraries, typed with these libraries, in an environment of their own.
docs-peers: .venv-peers/installed
	@failed=0; for page in dask hyperqueue multiprocessing parsl ray snakemake submitit; do \
	    echo "$$page"; .venv-peers/bin/python -m tests.guides docs/coming-from/$$page.md || failed=1; done; exit $$failed

# QUESTIONS="many round_trip" asks only those; ARGUMENTS=--write puts the figures into docs/benchmarks.md.
bench: .venv-bench/installed
	@.venv-bench/bin/python -m benchmarks $(QUESTIONS) $(ARGUMENTS)

clean:
	rm -rf .venv .venv-bench .venv-peers .venv-tools dist build mutants .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .tox docs/_build docs/gallery
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An editable install remembers where it was made, so a checkout that was moved or copied starts afresh.
define moved
ifneq "$(shell cat $(1)/made-in 2>/dev/null)" "$(CURDIR)"
.PHONY: $(1)/made-in
endif
endef
$(foreach venv,.venv .venv-bench .venv-peers .venv-tools,$(eval $(call moved,$(venv))))

.venv/made-in .venv-bench/made-in .venv-peers/made-in .venv-tools/made-in: scripts/venv
	@scripts/venv $(@D)
	@pwd -P >$@

# -qq: errors only. What was installed is recorded by the stamps, so this runs again only when pyproject.toml changes.
.venv/installed: pyproject.toml .venv/made-in
	@echo "Installing hyperflow into .venv"
	@$(PY) -m pip install -qq -e .
	@touch $@

.venv/installed-plot: pyproject.toml .venv/made-in
	@echo "Installing hyperflow and matplotlib into .venv"
	@$(PY) -m pip install -qq -e '.[plot]'
	@touch .venv/installed $@

.venv/installed-notebooks: pyproject.toml .venv/made-in
	@echo "Installing hyperflow and JupyterLab into .venv"
	@$(PY) -m pip install -qq -e '.[notebooks]'
	@touch .venv/installed $@

.venv/installed-docs: pyproject.toml .venv/made-in
	@echo "Installing hyperflow and what its documentation is made with into .venv"
	@$(PY) -m pip install -qq --no-compile -e '.[docs]'
	@touch .venv/installed $@

# LOCKED=yes installs what requirements-dev.txt says, to the byte. Python compiles what is imported when it is; pip would
# take longer to compile all modules than for the rest.
.venv/installed-dev: pyproject.toml .venv/made-in
	@echo "Installing hyperflow and the development tools into .venv"
	$(if $(LOCKED),@$(PY) -m pip install -qq --no-compile --require-hashes -r requirements-dev.txt)
	@$(PY) -m pip install -qq --no-compile $(if $(LOCKED),--no-deps) -e '.[dev]'
	@touch .venv/installed $@

# The peers have an environment of their own, so that what they need cannot change what is tested.
.venv-bench/installed: pyproject.toml benchmarks/requirements.txt .venv-bench/made-in
	@echo "Installing hyperflow and what it is compared with into .venv-bench"
	@.venv-bench/bin/python -m pip install -qq -e '.[numpy]' -r benchmarks/requirements.txt
	@touch $@

.venv-peers/installed: pyproject.toml docs/coming-from/requirements.txt .venv-peers/made-in
	@echo "Installing hyperflow and the libraries that users come from into .venv-peers"
	@.venv-peers/bin/python -m pip install -qq -e . -r docs/coming-from/requirements.txt
	@touch $@

# So have the tools that only `make mutants`, `make matrix` and `make lock` need.
.venv-tools/installed: pyproject.toml scripts/tools.txt .venv-tools/made-in
	@echo "Installing hyperflow and the rarer tools into .venv-tools"
	@$(TOOLS)/python -m pip install -qq -e '.[dev]' -r scripts/tools.txt
	@touch $@
