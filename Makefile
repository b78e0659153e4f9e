# `make demo` and `make test` set up what they need. Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Without an NVIDIA driver there is no use for a torch that brings CUDA along.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
RUNTIME := $(VENV)/.runtime-installed
CLIENTS := tests/clients/node_modules/.installed
DEV := $(VENV)/.dev-installed

# Two targets would otherwise install into one environment at the same time.
.NOTPARALLEL:
.PHONY: demo test test-all clients check format type bench bench-large-vocab bench-scale bench-read bench-mcp bench-llm bench-cost bench-launch bench-train bench-story story-model clean

demo: $(RUNTIME)
	$(BIN)/spd-tools demo

# Whole files go to a process: the tests of one share what is costly to set up.
test: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slurm and not long"

# With those that take minutes (kills at every write, calibration, training) and those on a real SLURM.
test-all: $(DEV)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Programs that the tests of tests/clients drive: Claude Code, the MCP Inspector, the conformance suite.
clients: $(CLIENTS)

check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(DEV)
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(DEV)
	$(BIN)/python -m benchmarks.bench_harvest

bench-large-vocab: $(DEV)
	$(BIN)/python -m benchmarks.bench_harvest --vocab 50304

bench-scale: $(DEV)
	$(BIN)/python -m benchmarks.bench_scale

bench-read: $(DEV)
	$(BIN)/python -m benchmarks.bench_read

bench-mcp: $(DEV)
	$(BIN)/python -m benchmarks.bench_mcp

bench-llm: $(DEV)
	$(BIN)/python -m benchmarks.bench_llm

bench-cost: $(DEV)
	$(BIN)/python -m benchmarks.bench_cost

bench-launch: $(DEV)
	$(BIN)/python -m benchmarks.bench_launch

bench-train: $(DEV)
	$(BIN)/python -m benchmarks.bench_train

bench-story: $(DEV)
	$(BIN)/python -m benchmarks.story_model measure

# Trains the demo's model again: hours, on one core. Interrupted, it goes on.
story-model: $(DEV)
	$(BIN)/python -m benchmarks.story_model train

clean:
	rm -rf $(VENV) tests/clients/node_modules build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find spd_tools mcp_server benchmarks tests -name __pycache__ -prune -exec rm -rf {} +

# The virtual environment; made again where a moved or removed Python left a dead one.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "spd-tools needs Python 3.11 or newer, which '$(PYTHON)' is not; install one, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module; install it (Debian and Ubuntu: apt install python3-venv), then run make again." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(RUNTIME): $(BIN)/python pyproject.toml constraints-cpu.txt
	$(PIP_INSTALL) $(CONSTRAINTS) -e .
	@touch $@

$(DEV): $(BIN)/python pyproject.toml constraints-cpu.txt
	$(PIP_INSTALL) $(CONSTRAINTS) -e '.[dev]'
	@touch $@ $(RUNTIME)

$(CLIENTS): tests/clients/package.json
	@command -v npm >/dev/null || \
	  { echo "The clients need npm (Node.js 20 or newer); install it, then run make clients again." >&2; exit 1; }
	npm --prefix tests/clients install --no-package-lock --no-audit --no-fund --loglevel=error
	@touch $@
