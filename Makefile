# `make run` and `make test` do all the set-up: everything goes to .venv/ and the user's cache.
PROFILE ?= laptop
FROM ?= 01
PROCESSES ?= 1
PYTHON ?=
TARGET ?= wheelhouse
SEEDS ?= 43 44

BIN := .venv/bin
READY := .venv/.ready
RESOLVE := $(BIN)/uv pip compile --quiet --upgrade pyproject.toml --output-file requirements.lock
FITS := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))

# pip, Jupyter and the caches want a home; where there is none that can be written, as for a
# container's nameless user, it is a folder here.
ifneq ($(shell test -d "$$HOME" -a -w "$$HOME" && echo writable),writable)
export HOME := $(CURDIR)/.home
$(shell mkdir -p .home)
$(info no home that can be written: .home/ stands in for it)
endif

# A folder wheels/ beside this file (`make wheelhouse` makes it) stands in for the network, for
# every pip that is run from here.
HINT :=
ifneq ($(wildcard wheels),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(shell $(or $(PYTHON),python3) -c \
	'import pathlib; print(pathlib.Path("wheels").resolve().as_uri())')
HINT := || { echo "error: wheels/ lacks what this machine and Python need: gather it on one of its" \
	"kind (make wheelhouse), or remove wheels/ to install from the network" >&2; exit 1; }
endif

.PHONY: help run pretrain test engine lint lab assets wheelhouse refresh seeds readme lock newest \
	audit clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

run: $(READY) ## every numbered notebook in order; PROFILE=..., FROM=03, PROCESSES=4
	@PROFILE=$(PROFILE) $(BIN)/python -m helpers.run --from $(FROM) --processes $(PROCESSES)

pretrain: $(READY) ## notebook 00, optional: pretrain the student; PROFILE=..., PROCESSES=4
	@PROFILE=$(PROFILE) $(BIN)/python -m helpers.run --only 00 --processes $(PROCESSES)

test: $(READY) ## unit tests, all notebooks under nbval in the smoke profile, one in a browser
	PROFILE=smoke $(BIN)/python -m helpers.assets
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses=2 --dist=loadfile
	rm -rf artifacts/smoke
	PROFILE=smoke $(BIN)/python -m pytest notebooks --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=900 --durations=5
	PROFILE=smoke $(BIN)/python -m pytest tests/test_jupyterlab.py -m browser

engine: $(READY) ## the blog's inference engine, in an environment of its own (Python 3.11, x86-64)
	@test -e .engine/.ready -a .engine/.ready -nt requirements-engine.txt || { \
		rm -rf .engine && $(BIN)/python -m venv .engine && \
		{ .engine/bin/python -m pip install --quiet --disable-pip-version-check --retries=1 \
			--no-deps --require-hashes --requirement requirements-engine.txt \
			2> .engine/failure.txt && rm .engine/failure.txt && touch .engine/.ready; } || \
		{ cat .engine/failure.txt >&2; exit 1; }; }

lint: $(READY) ## ruff on code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(READY) ## JupyterLab on the notebooks
	@PROFILE=$(PROFILE) $(BIN)/python -m helpers.assets
	@PROFILE=$(PROFILE) $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

assets: $(READY) ## fetch the data and weights of PROFILE into the user's cache
	@PROFILE=$(PROFILE) $(BIN)/python -m helpers.assets

wheelhouse: $(READY) ## all that run, test and lab need, in a folder for a USB stick; TARGET=...
	@$(BIN)/python -m helpers.wheelhouse "$(TARGET)"

refresh: $(READY) ## run the default profile and store its outputs in notebooks/
	@$(BIN)/python -m helpers.run --refresh

seeds: $(READY) ## notebooks 1 to 4 with other seeds, for README's table of their spread; SEEDS="43 44"
	@for seed in $(SEEDS); do \
		SET="name=laptop-seed-$$seed seed=$$seed" $(BIN)/python -m helpers.run --to 04 || exit; \
	done
	@$(BIN)/python -m helpers.report --seeds $(SEEDS)

readme: $(READY) ## render the README's tables and picture from results/
	@$(BIN)/python -m helpers.report

lock: $(READY) ## resolve requirements.txt anew into requirements.lock
	$(RESOLVE)

newest: $(READY) ## lift each pin that is not held back to the newest that resolves, and lock them
	sed -E '/^# held back/,/^$$/! s/==/>=/' requirements.txt > .venv/wanted.txt
	$(BIN)/uv pip compile --quiet --no-config --no-annotate --no-header .venv/wanted.txt \
		--upgrade --output-file .venv/found.txt
	awk -F '==| ' 'NR == FNR { found[$$1] = $$2; next } \
		/^[a-z]/ && $$1 in found { $$0 = $$1 "==" found[$$1] } 1' \
		.venv/found.txt requirements.txt > .venv/lifted.txt
	mv .venv/lifted.txt requirements.txt
	$(RESOLVE)

audit: $(READY) ## look for known vulnerabilities in what is installed; SECURITY.md lists the accepted
	$(BIN)/uv tool run pip-audit==2.10.1 --skip-editable \
		$(addprefix --path=,$(wildcard .venv/lib/python3.*/site-packages .engine/lib/python3.*/site-packages)) \
		$(addprefix --ignore-vuln=,$(shell sed -nE 's/^\| ((CVE|GHSA|PYSEC)-[0-9A-Za-z-]+) .*/\1/p' SECURITY.md))

clean: ## remove the virtual environment and all artefacts
	rm -rf .venv .engine .home artifacts

# torch comes in a build for each kind of machine, so the lock leaves it out: the second pip
# command installs the pinned version from wherever pip finds it, and changes nothing else.
$(READY): requirements.lock requirements.txt pyproject.toml
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python); do \
		if "$$python" -c '$(FITS)' 2>/dev/null; then \
			echo "creating .venv with $$("$$python" --version)"; \
			exec "$$python" -m venv .venv; \
		fi; \
	done; \
	for python in python3.11 python3.12 python3; do \
		if "$$python" -c '$(FITS)' 2>/dev/null; then found="PYTHON=$$(command -v "$$python")"; fi; \
	done; \
	echo "error: Python 3.11 or 3.12 is needed; $(or $(PYTHON),python3) is" \
		"$$($(or $(PYTHON),python3) --version 2>&1 | head -n 1);" \
		"$${found:-none was found on the PATH}" >&2; \
	exit 1
	$(BIN)/python -m pip install --require-hashes --no-deps --requirement requirements.lock $(HINT)
	$(BIN)/python -m pip install --requirement requirements.txt $(HINT)
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $(READY)
