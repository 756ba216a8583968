# For a fresh machine: `make demo`, `make field` and `make test`. All build .venv first, with pip alone.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --root-user-action=ignore

export FLWR_TELEMETRY_ENABLED=0
export FLWR_DISABLE_UPDATE_CHECK=1

# What a change breaks most often, in two minutes of a quiet machine; `make test` is everything.
FAST := tests/test_pipeline.py tests/test_package.py tests/crypto/test_aont.py tests/crypto/test_fixedpoint.py \
  tests/detection/test_geometry.py tests/detection/test_ocsvm.py tests/lomar/paper tests/lomar/test_strategy.py \
  tests/replies/test_npy.py tests/verification/test_plan.py tests/verification/test_wire.py tests/lab/test_journal.py \
  tests/lab/attacks/test_base.py tests/lab/attacks/test_sign_flip.py tests/strategies/test_strategies.py tests/studies/test_architecture.py

.PHONY: bench check clean demo docs drills field lint matrix mutation quickstart release-check scale setup test

setup: $(STAMP)

# An editable install needs no rebuild when code changes; only a change of pyproject.toml installs again.
$(STAMP): pyproject.toml
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expected Python 3.11 or newer as python3, got $$(python3 -V)"; exit 1; }
	@python3 -m venv $(VENV) 2>/dev/null || { echo "expected python3 with venv: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (torch is large: minutes)"
	@$(PIP) --upgrade 'pip>=25.1'  # the first that knows dependency groups
	@$(PIP) -e '.[large,live,server,torch]' --group dev
	@$(PIP) -e '.[charm]' >/dev/null 2>&1 \
	  || echo "Charm does not build here (needs gcc and libssl-dev): using the arkworks back end"
	@touch $@

demo: $(STAMP)
	@$(PY) -m apps.studies.demo

field: $(STAMP)
	@$(PY) -m apps.field

# The oldest and the newest flwr we claim that pip can install; each environment is 5 GB, and is removed afterwards.
quickstart: $(STAMP)
	@$(PY) apps/quickstart-check/check.py --flwr 1.38.0 --flwr 1.42.0

# The wheel in fresh environments: every Python and Flower that it claims; writes docs/results/versions.md.
matrix: $(STAMP)
	@$(PY) -m apps.release.matrix --write

# How many small changes of the code the tests notice: a sample, about an hour; writes docs/results/mutation.md.
mutation: $(STAMP)
	@OMP_NUM_THREADS=1 nice -n 19 $(PY) -m apps.release.mutation --write

# What must hold before a version goes out; the hour-long part: apps/release/checklist.py --slow.
release-check: $(STAMP)
	@$(PY) -m apps.release.checklist

# What a round costs the server, ours, Flower's and the peers', which are installed beside: writes docs/performance.md
# and its plot (half an hour). Threads that wait sleep: by default they spin, which counts as CPU time.
bench: $(STAMP)
	@OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive OPENBLAS_THREAD_TIMEOUT=4 $(PY) -W ignore -m benchmarks.round --docs

# What many clients cost, and groups of them: writes docs/scale.md (half an hour of CPU, goes on where it was).
scale: $(STAMP)
	@OMP_WAIT_POLICY=passive $(PY) -W ignore -m benchmarks.scale --docs
	@OMP_NUM_THREADS=1 $(PY) -W ignore -m apps.studies.hierarchy --write

# Deaths, outages, wrong keys and clocks, over real processes; longer than `make test` may take.
drills: $(STAMP)
	@FAA_DRILLS=1 $(PY) -m pytest -p no:xdist -m slow tests/field/test_drills.py

check: lint
	@$(PY) -m pytest -n 2 --dist worksteal -m 'not slow' $(FAST)

# The site, into docs/_build; a warning or a link to nothing is an error.
docs: $(STAMP)
	@$(VENV)/bin/sphinx-build -q -b html -n -W --keep-going docs docs/_build

# mypy and the site take one core each.
test: $(STAMP)
	@$(MAKE) --no-print-directory -j2 lint docs
	@$(PY) -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	@$(VENV)/bin/ruff format --check --quiet . || { echo "ruff format would change these files: run '$(VENV)/bin/ruff format .'"; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-logo 2>/dev/null || $(VENV)/bin/lint-imports

clean:
	rm -rf $(VENV) runs outputs multirun
