# Each target sets up what it needs; a second call installs nothing and needs no network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Named after the lock's content, for a checkout's times say nothing: what is installed is not installed again.
INSTALLED := $(VENV)/.installed-$(shell cksum < requirements.lock | cut -d' ' -f1)
UV ?= uv
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test lint data results schemas reports-test tensorboard lock lowest clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo '  e.g. make train ARGS="trainer.max_epochs=2 seed=1"'

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing about 6 GB of packages (PyTorch with CUDA); this takes a few minutes, once."
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

train: $(INSTALLED) ## train cnn_c on Fashion-MNIST (20 epochs); more settings in ARGS
	$(BIN)/python train.py model=cnn_c optim=sgd $(ARGS)

test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

lint: $(INSTALLED) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

data: $(INSTALLED) ## get and verify Fashion-MNIST
	$(BIN)/python scripts/data.py $(ARGS)

results: $(INSTALLED) ## make RESULTS.md and the headers of conf/experiment anew from results/
	$(BIN)/python scripts/record.py $(ARGS)

schemas: $(INSTALLED) ## make conf/schemas/, for editors, and the list of public keys anew from the code
	$(BIN)/python -m fmnist_lit.schemas
	$(BIN)/python -m tests.test_public_keys

reports-test: $(INSTALLED) ## test the best MLP and the best CNN below outputs/, as the reports do
	$(BIN)/python scripts/best_runs.py $(ARGS)

tensorboard: $(INSTALLED) ## look at all runs below outputs/
	$(BIN)/tensorboard --logdir outputs $(ARGS)

lock: ## write requirements.lock anew from pyproject.toml, versions kept where they fit (needs uv)
	$(UV) pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header --generate-hashes \
		--extra dev --extra export --extra sweep --extra loggers \
		pyproject.toml -o requirements.lock $(ARGS)

lowest: ## train with the lowest versions that pyproject.toml allows (needs uv, 7 GB for a while)
	set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(UV) venv --quiet --python 3.11 $$folder/venv; \
	$(UV) pip install --quiet --python $$folder/venv/bin/python --resolution lowest-direct -e .; \
	for options in trainer=cpu "trainer=ddp trainer.accelerator=cpu"; do \
		$$folder/venv/bin/python train.py debug=fast data=synthetic threads=1 output_dir=$$folder $$options; \
	done

clean: ## remove caches and build products (not the environment, the data or the runs)
	rm -rf .pytest_cache .ruff_cache .mypy_cache build dist src/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
