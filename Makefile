# `make` alone lists the targets. Everything is installed into .venv, nothing outside the repository is touched.

CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)
# Tried in this order; the first one that is new enough and can make an environment is taken.
PYTHON ?= python3 python3.11 python3.12 python3.13 python
# Passed on to snakemake by `study` and to pytest by the tests: make study ARGS=--dry-run
ARGS ?=
# Processes that share the tests, of about 4 GiB each; three even on two cores, since many tests wait.
WORKERS ?= 3
# Passed on to pip for PyTorch alone, for those who need another build than pip's default.
TORCH_ARGS ?=
# Empty: the newest versions that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt

VENV := .venv
STAMP := $(VENV)/.setup-done
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
# -qq: errors only.
INSTALL := $(PIP) -qq install --no-compile $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# The tests of a file stay together, since they share what is costly to make; the longest files come first.
SHARED = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# The workflow's rules and some tests call `sight` and `snakemake` by name.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help setup study test test-slow test-all lint format constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## install the pinned environment into .venv (again only if it changed)

# The stamp comes last, so that an interrupted set-up is taken up again.
$(STAMP): pyproject.toml constraints.txt
	@rm -f $@
	@if ! { $(VENV)/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	        && $(PIP) --version; } >/dev/null 2>&1; then \
	    found=; usable=; \
	    for candidate in $(PYTHON); do \
	        "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	        found=$${found:-$$candidate}; \
	        "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	        usable=$$candidate; break; \
	    done; \
	    if [ -n "$$usable" ]; then \
	        "$$usable" -m venv --clear $(VENV) || exit 1; \
	    elif [ -z "$$found" ]; then \
	        echo "make setup: no Python 3.11 or newer among: $(PYTHON). Install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; \
	    elif "$$found" -m virtualenv --version >/dev/null 2>&1; then \
	        "$$found" -m virtualenv -q --clear $(VENV) || exit 1; \
	    else \
	        version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	        echo "make setup: $$found ($$version) lacks its venv module. Install it (Debian, Ubuntu: apt install python$$version-venv) and run this again" >&2; exit 1; \
	    fi; \
	fi
	@echo "Installing PyTorch into $(VENV) (a large download the first time)"
	@$(INSTALL) $(TORCH_ARGS) torch==2.13.0 'setuptools>=77'
	@echo "Installing everything else"
	@$(INSTALL) --no-build-isolation -e '.[dev,slurm,captions]'
	@# All cores at once, which pip doesn't use; some packages hold files for another Python.
	@$(VENV)/bin/python -m compileall -q -j 0 -x /tests/ $(VENV)/lib >/dev/null 2>&1 || true
	@touch $@

study: setup ## run the default study: training, evaluation, figures (CORES=, ARGS=)
	@$(RUN) snakemake --cores $(CORES) $(ARGS)

test: lint ## check the style and run the quick tests (WORKERS=, ARGS=)
	@$(RUN) pytest $(SHARED) $(ARGS)

# What tells times comes last, and alone; the cluster mostly waits, and does so beside the others.
test-slow: setup ## run the tests that take minutes (WORKERS=, ARGS=)
	@$(RUN) pytest -m "slow and not (timed or campaign)" $(SHARED) $(ARGS); shared=$$?; \
	$(RUN) pytest -m "slow and timed" $(ARGS); last=$$?; \
	for status in $$shared $$last; do \
	    case $$status in 0|5) ;; *) exit $$status ;; esac; \
	done # 5: ARGS names no tests of that half

test-all: lint ## check the style and run all tests (ARGS=)
	@$(RUN) pytest -m '' $(ARGS)

lint: setup ## check style and workflow, change nothing
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) snakefmt --check Snakefile workflow
	@$(RUN) snakemake --lint

format: setup ## bring all files into the project's style
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .
	@$(RUN) snakefmt Snakefile workflow

constraints: ## pin in constraints.txt what .venv holds (see CONTRIBUTING.md)
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	   $(PIP) freeze --all --exclude pip --exclude-editable 2>/dev/null \
	       | sed -e '/ @ /d' -e 's/+.*//' | grep -Eiv '^(nvidia|cuda|triton)' \
	       | awk -F == '{ name = tolower($$1); gsub(/[-_.]+/, "-", name); print name "\t" $$0 }' \
	       | LC_ALL=C sort -k 1,1 | cut -f 2; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt

clean: ## remove caches and build leftovers (never results, nor .venv)
	@rm -rf build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis
	@find $(wildcard src tests benchmarks workflow) -type d -name __pycache__ -prune -exec rm -rf {} +
