PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/
STAMP = $(VENV)/.installed

.PHONY: setup check test test-slow test-gpu mutants demo up protos bench bench-gpu

setup: $(STAMP)  ## install everything into .venv
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV) && $(RUN)pip install --quiet --requirement requirements.lock && $(RUN)pip install --quiet --no-deps --editable . && touch $@
check: setup  ## lint, types, dependency rules, generated code
	$(RUN)ruff check && $(RUN)ruff format --check && $(RUN)mypy && $(RUN)lint-imports && $(RUN)pytest -q tests/test_generated_code.py
test: setup  ## the suite
	$(RUN)pytest
test-slow: setup  ## what takes minutes
	$(RUN)pytest -m slow
test-gpu: setup  ## what needs a CUDA device
	$(RUN)pytest -m gpu
mutants: setup  ## plant faults and see the suite notice
	$(RUN)python tests/mutants.py
demo: setup  ## a fleet of real models and a mixed workload, with a live table
	$(RUN)forerun demo $(ARGS)
up: setup  ## the whole fleet on this machine, until Ctrl-C
	$(RUN)forerun up $(ARGS)
protos: setup  ## generate the Python code of the protocol
	$(RUN)python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. --grpc_python_out=. protos/speculation/v1/*.proto
bench: setup  ## the measurements behind the README's numbers
	$(RUN)forerun bench exactness && $(RUN)forerun bench speed && $(RUN)forerun bench overhead
bench-gpu: setup  ## what needs a CUDA device
	$(RUN)forerun bench gpu $(ARGS)
