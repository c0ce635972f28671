PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/
STAMP = $(VENV)/.installed
LLAMA = .forerun/llama.cpp
LLAMA_SERVER_BUILT = $(LLAMA)/build/bin/llama-server

.PHONY: setup check test test-slow test-gpu test-ray mutants demo up protos faults soak bench bench-gpu fuzz audit licences llama-server deploy-check locks \
	chromium page-assets page-screenshots

setup: $(STAMP)  ## install everything into .venv
$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV) && $(RUN)pip install --quiet --requirement requirements.lock && $(RUN)pip install --quiet --no-deps --editable . && \
		$(RUN)python -c "import router_models.formulas, worker.kernels as kernels; kernels.compile_for_bfloat16()" && touch $@  # compiled once, and kept: else the first workers wait for it
check: setup  ## lint, types, dependency rules, generated code
	$(RUN)ruff check && $(RUN)ruff format --check && $(RUN)mypy && $(RUN)lint-imports && $(RUN)pytest -q tests/test_generated_code.py
test: setup chromium  ## the suite, two files at a time
	$(RUN)pytest --numprocesses 2 --dist loadfile
test-slow: setup  ## what takes minutes
	$(RUN)pytest -m slow
test-gpu: setup  ## what needs a CUDA device
	$(RUN)pytest -m gpu
test-ray: setup  ## a fleet on a Ray cluster of three machines (processes here), one of which is lost; installs ray
	$(RUN)pip install --quiet --no-deps ray==2.60.0 msgpack==1.2.4 && $(RUN)pytest -m slow tests/end_to_end/test_ray_fleet.py
mutants: setup  ## plant faults and see the suite notice
	$(RUN)python tests/mutants.py
demo: setup  ## a fleet of real models and a mixed workload, with a live table
	$(RUN)forerun demo $(ARGS)
up: setup  ## the whole fleet on this machine, until Ctrl-C
	$(RUN)forerun up $(ARGS)
protos: setup  ## generate the Python code of the protocol
	$(RUN)python -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. --grpc_python_out=. protos/speculation/v1/*.proto
faults: setup  ## break a fleet in twelve ways at every step of a round: a quarter of an hour
	$(RUN)forerun bench faults $(ARGS)
soak: setup  ## watch a fleet under mixed requests while workers die and return: half an hour
	$(RUN)forerun bench soak --minutes 30 $(ARGS)
bench: setup  ## the measurements behind the README's numbers
	$(RUN)forerun bench exactness && $(RUN)forerun bench speed && $(RUN)forerun bench overhead
bench-gpu: setup  ## what needs a CUDA device
	$(RUN)forerun bench gpu $(ARGS)
fuzz: setup  ## 10,000 hostile requests against a fleet of its own
	$(RUN)forerun bench fuzz $(ARGS)
audit: setup  ## known vulnerabilities of everything that is pinned; asks a database in the network: ARGS="--vulnerability-service osv"
	$(RUN)pip-audit --requirement requirements.lock --no-deps --disable-pip --strict $(ARGS)
licences: setup  ## of everything that the images hold: docs/licences.md
	printf '# Licences\n\nOf the packages that the images hold, by what they say themselves; written by `make licences`.\n\n' > docs/licences.md
	$(RUN)pip-licenses --format=markdown --order=license --packages $$(grep --only-matching '^[^#=]*' deploy/docker/worker.lock) >> docs/licences.md
llama-server: $(LLAMA_SERVER_BUILT)  ## llama.cpp's server, for `forerun bench peers`; needs cmake and a C++ compiler, and a quarter of an hour
$(LLAMA_SERVER_BUILT): | $(STAMP)
	mkdir -p $(LLAMA)/source
	$(RUN)pip download --quiet --no-deps --no-binary llama-cpp-python --dest $(LLAMA) llama-cpp-python==0.3.36
	tar --extract --file $(LLAMA)/llama_cpp_python-0.3.36.tar.gz --directory $(LLAMA)/source --strip-components=1
	cmake -S $(LLAMA)/source/vendor/llama.cpp -B $(LLAMA)/build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF \
		-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF
	cmake --build $(LLAMA)/build --parallel $$(nproc) --target llama-server llama-bench
deploy-check:  ## carry out the Dockerfile without Docker: root, debootstrap, buildah, bubblewrap; TORCH_INDEX=...
	$(PYTHON) deploy/docker/check.py base && $(PYTHON) deploy/docker/check.py build controller && \
		$(PYTHON) deploy/docker/check.py build worker-cpu && \
		unshare --net sh -c 'ip link set lo up && $(PYTHON) deploy/docker/check.py run'
locks: setup  ## the locks of the images, from requirements.lock
	$(RUN)python deploy/docker/locks.py
chromium: setup  ## a browser for the page's tests, where the machine has none: needs npm, no root
	$(RUN)python tests/page/chromium.py
page-assets:  ## what the page ships of others, as page/package-lock.json says; needs npm
	npm ci --prefix page --ignore-scripts --no-audit --no-fund
	cp page/node_modules/uplot/dist/uPlot.esm.js page/node_modules/uplot/dist/uPlot.min.css page/node_modules/uplot/LICENSE page/static/vendor/uplot/
	rm -r page/node_modules
page-screenshots: setup chromium  ## docs/page/*.png, of a real fleet
	$(RUN)python tests/page/screenshots.py
