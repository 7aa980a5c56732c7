PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
KERNELS_ARGS ?=
# Every core: a worker takes over half of what another has left. PYTEST_ARGS='-n 0' runs all in one process.
PARALLEL := -n auto --maxprocesses=8 --dist worksteal

BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages
STAMP := $(VENV)/.installed
SANITIZE := build/sanitize
FUZZ_SECONDS ?= 60
OF_SOURCES := $(addprefix test_,docs docstrings extending imports packaging promises releases) kernels/test_names # the tests that read the package's own files
KERNEL_TESTS := $(addprefix ops/test_,gradients made made_inverse made_sample masked_conv masked_linear pixelcnn_sample) \
	$(addprefix backends/test_,cpu hostile made_inverse_cpu masked_conv_cpu masked_conv_tiles)

.DEFAULT_GOAL := help
.PHONY: help demo test aarch64 sanitize tsan fuzz kernels notebooks help-pages docs lint lock bench bench-gpu wheel wheel-test clean

help:
	@echo "make demo    the main job: train, sample and plot into out/"
	@echo "make test    the tests (PYTEST_ARGS='-m \"not gpu\"' for the slow ones too; VLAE_FAST_DATA=folder for real data)"
	@echo "make aarch64  kernel tests on the library cross-compiled for aarch64, emulated (Debian on x86-64)"
	@echo "make sanitize  the kernel tests on a library built with AddressSanitizer and UndefinedBehaviorSanitizer (GCC); CUDA too"
	@echo "make tsan     every op of the CPU library, and the CUDA kernels on the host, under ThreadSanitizer (GCC): a race fails"
	@echo "make fuzz     files made wrong, for FUZZ_SECONDS=$(FUZZ_SECONDS) to each reader of a stranger's files"
	@echo "make kernels  every Triton kernel compiled ahead of time: spills and missing matrix instructions fail;"
	@echo "              TRITON=3.6.0 compiles by that version, which is put into build/; KERNELS_ARGS=--check: faults alone"
	@echo "make notebooks  the notebooks of examples/, executed and written with their outputs"
	@echo "make help-pages  what \`vlae-fast COMMAND --help\` shows, after a change of an option"
	@echo "make docs    the documentation as a site, into out/docs; a warning or a dead link is an error"
	@echo "make lint    ruff, mypy, and clang-format and clang-tidy for C++"
	@echo "make bench   the benchmarks, quick settings"
	@echo "make bench-gpu  the tests and benchmarks that need a CUDA device, into out/gpu"
	@echo "make lock    requirements.lock: the hashes of what requirements.txt pins, by uv"
	@echo "make wheel   the sdist and the wheel, into dist/ (VLAE_FAST_CUDA=1 for one with the CUDA library)"
	@echo "make wheel-test TORCH=2.10.0 PYTHON=python3.10  the tests on that wheel, away from the checkout, with that torch"
	@echo "make clean   remove what was built; $(VENV) stays"
	@echo "PYTHON=$(PYTHON) VENV=$(VENV)"

# Files with the hashes that the lock has; then torch and triton, of which an index has builds of its own.
$(PACKAGES): requirements.txt requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --no-deps -r requirements.lock
	$(BIN)/python -m pip install -q -r requirements.txt
	@touch $@

# -v: pip shows nothing else of the build, which takes minutes.
$(STAMP): $(PACKAGES) setup.py pyproject.toml $(shell find csrc -type f)
	$(BIN)/python -m pip install -v --no-build-isolation --no-deps -e .
	@cat vlae_fast/_build_report.json
	@touch $@

lock:
	grep -vE '^(torch|triton)==' requirements.txt | uv pip compile -q - --generate-hashes --no-deps --universal --python-version 3.10 \
		--no-annotate --no-header -o requirements.lock

demo: $(STAMP)
	$(BIN)/python -m vlae_fast demo --out out

# Bytecode is kept, whatever the environment says: dozens of tests start a process, which would compile the package again.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(PARALLEL) $(PYTEST_ARGS)

aarch64: $(PACKAGES)
	VENV=$(VENV) .ci/aarch64

# A copy of the sources, so that the library in use stays; -O3 would only take longer to compile. The tests run in the folder
# that it is installed into, where it is found before any other. GCC's warnings mistake what the sanitizers add. Python is not instrumented: the runtime (and libstdc++,
# whose exceptions it watches) is loaded first, and what Python leaks is not ours. A report goes straight to stderr: what
# pytest captures is lost with the process. Of the table only the row cpu runs, and no test of how torch differentiates and
# compiles. -g1: reports name lines; all of -g takes half as long again to compile.
sanitize: $(STAMP)
	mkdir -p $(SANITIZE)/src
	rm -rf $(SANITIZE)/site $(addprefix $(SANITIZE)/src/,csrc kernels vlae_fast)
	cp -a csrc kernels vlae_fast vlae_fast_start.py setup.py pyproject.toml README.md LICENSE $(SANITIZE)/src
	rm -f $(SANITIZE)/src/vlae_fast/*.so
	sed -i 's/-O3/-O1/' $(SANITIZE)/src/csrc/build.json
	VLAE_FAST_WERROR=0 CXX="g++ -fsanitize=address,undefined -fno-sanitize-recover=all -g1" VLAE_FAST_CUDA=0 VLAE_FAST_REQUIRE_CPU=1 \
		$(BIN)/python -m pip install -q --no-build-isolation --no-deps --target $(SANITIZE)/site $(SANITIZE)/src
	cd $(SANITIZE)/site && VLAE_FAST_REQUIRE_CPU=1 VLAE_FAST_ROWS=cpu ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
		$(abspath $(BIN))/python -m pytest -q $(PARALLEL) --capture=sys -p no:cacheprovider -k "not triton and not opcheck and not gradcheck and not compile" $(KERNEL_TESTS:%=$(CURDIR)/tests/%.py)
	PYTHONPATH=tests $(BIN)/python -m cases.cuda_host.watched address,undefined

# torch's threads are not instrumented: the library gets threads of its own. Cf. tests/cases/races. A CUDA kernel's threads are
# fibers that only the barriers of their block order: tests/cases/cuda_host.
tsan: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m cases.races build/tsan
	PYTHONPATH=tests $(BIN)/python -m cases.cuda_host.watched thread

fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python tests/fuzz/readers.py --seconds $(FUZZ_SECONDS)

kernels: $(STAMP) $(if $(TRITON),build/triton-$(TRITON)/triton)
	env -u TRITON_INTERPRET PYTHONPATH=$(if $(TRITON),build/triton-$(TRITON)) $(BIN)/python -m benchmarks.kernels $(KERNELS_ARGS)

build/triton-%/triton:
	$(BIN)/python -m pip install -q --no-deps --target build/triton-$* triton==$*

notebooks: $(STAMP)
	$(BIN)/python examples/notebooks/execute.py

help-pages: $(STAMP)
	$(BIN)/python -c "from vlae_fast.commands.help_pages import write; write()"

docs: $(STAMP)
	$(BIN)/python docs/build.py out/docs

lint: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	VENV=$(VENV) csrc/lint.sh

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run --quick

bench-gpu: $(STAMP)
	PYTHON=$(BIN)/python benchmarks/on_gpu.sh out/gpu test suite

# The wheel is built of the sdist, the one time that C++ is compiled. Where it names torch's libraries, torch is there to
# answer: it is not carried along. From the other symbols auditwheel reads how old a Linux may be, and the wheel is named for
# that.
wheel: $(PACKAGES)
	rm -rf build/wheel dist
	$(BIN)/python -m build --no-isolation --outdir build/wheel
	mkdir dist
	mv build/wheel/*.tar.gz dist
ifeq ($(shell uname -s),Linux)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m auditwheel repair --exclude 'libtorch*.so' -w dist build/wheel/*.whl
else
	mv build/wheel/*.whl dist
endif
	@ls -l dist

# In a fresh environment, away from the checkout: the tests and what they read are the sdist's, the package is the wheel's.
# The interpreter of Triton 3.6, which comes with torch 2.10 and 2.11, fails on loops under numpy 2.4.
wheel-test:
	@test -n "$(TORCH)" || { echo "make wheel-test: TORCH must be a version of torch, as in TORCH=2.10.0" >&2; exit 2; }
	set -e; away=$$(mktemp -d); trap 'rm -rf "$$away"' EXIT; \
	$(PYTHON) -m venv $$away/venv; \
	$$away/venv/bin/python -m pip install -q torch==$(TORCH) "$$(echo dist/*.whl)[app,dev,flows]" $(if $(filter 2.10.% 2.11.%,$(TORCH)),'numpy<2.4'); \
	tar -xf dist/*.tar.gz -C $$away --strip-components=1; \
	rm -r $$away/vlae_fast $$away/kernels; \
	cd $$away; \
	VLAE_FAST_REQUIRE_CPU=1 venv/bin/python -m pytest $(PARALLEL) $(OF_SOURCES:%=--ignore=tests/%.py) $(PYTEST_ARGS)

clean:
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f vlae_fast/*.so vlae_fast/_build_report.json $(STAMP)
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
