# make quickstart | test | test-fast | proof | lint | docs | package. One virtual environment in
# .venv, from requirements.lock.
PYTHON ?= $(shell for p in python3.11 python3.10; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
STAMP := .venv/installed
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test test-fast proof lint environment docs package

quickstart: $(STAMP)
	PYTHON=$(PY) launchers/quickstart.sh

test: $(STAMP)
	$(PY) -m pytest $(TWO)

# Between edits: without real runs and what compiles much.
test-fast: $(STAMP)
	$(PY) -m pytest $(TWO) -m "not slow and not proof"

# What takes long: many faults on each feed, eight devices.
proof: $(STAMP)
	$(PY) -m pytest -m proof --timeout 3600

package: $(STAMP)
	$(PY) -m build --no-isolation --outdir build/dist

# The pages under docs/ as a site in build/site.
docs: .venv-docs/installed
	.venv-docs/bin/mkdocs build --strict

.venv-docs/installed: requirements-docs.lock
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --disable-pip-version-check --no-deps -r requirements-docs.lock
	touch $@

lint: $(STAMP)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

environment: $(STAMP)

$(STAMP): requirements.lock setup.py
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 or 3.11 is needed (dm-reverb 0.14 has wheels up to 3.11, ale-py 0.12 from 3.10)." >&2; \
	  echo "Get it with: apt install python3.11 python3.11-venv, or: uv python install 3.11, or: conda create -n cql python=3.11; then: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' || \
	  { echo "error: PYTHON=$(PYTHON) isn't Python 3.10 or 3.11; .venv stays as it is." >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --disable-pip-version-check --no-deps -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
