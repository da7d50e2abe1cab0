# One command per need. `make demo` and `make test` do all the set-up they need.
#   make PYTHON=python3.12 ...   the Python that makes .venv (3.11, 3.12 or 3.13)
#   make LOCK=cuda ...           the packages for NVIDIA GPUs instead of those for CPU

PYTHON ?= python3
LOCK =
# A PYTHON that was asked for must be the one in .venv; the default one need not.
EXACT = $(if $(filter file,$(origin PYTHON)),,--exact-python)
IN_VENV = .venv/bin/python -m

.PHONY: help setup demo test parts check format clean

help:
	@echo "make demo     the whole chain on real purchases, two processes: under 10 minutes"
	@echo "make test     all tests"
	@echo "make parts    as root: Debian's Prometheus, Slurm, PostgreSQL, for the tests that need them"
	@echo "make check    ruff (lint and format), pyright, the import rules"
	@echo "make format   let ruff rewrite what it can"
	@echo "make setup    only the set-up that each of these does first (.venv)"
	@echo "make clean    remove .venv and caches; data and results stay"

setup:
	@$(PYTHON) requirements/install.py $(EXACT) $(if $(LOCK),--lock $(LOCK))

demo: setup
	@$(IN_VENV) jobs.demo

# Some modules at a time (tests/conftest.py); those that take longest come early.
TEST_WORKERS = -n auto --dist loadscope --no-loadscope-reorder

test: setup
	@$(IN_VENV) models.warm_up
	@$(IN_VENV) pytest $(TEST_WORKERS)

# Programs that some tests start for real, of Debian's packages; without them those tests skip.
PARTS = prometheus prometheus-pushgateway prometheus-alertmanager prometheus-node-exporter \
	postgresql slurm-wlm slurmdbd munge mariadb-server systemd

parts:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(PARTS)

check: setup
	@$(IN_VENV) ruff check .
	@$(IN_VENV) ruff format --check .
	@$(IN_VENV) pyright
	@$(IN_VENV) pytest -q tests/test_imports.py

format: setup
	@$(IN_VENV) ruff check --fix .
	@$(IN_VENV) ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
