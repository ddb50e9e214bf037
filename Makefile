# Two commands matter: `make pretrain` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
TINY ?= data/tiny
# Further flags of run_pretrain.py, for example: make pretrain FLAGS="--max_steps 50"
FLAGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
CORPUS := $(wildcard llm/corpus/*.gz)
# Operations that make training faster. Nothing needs them: without a C++ compiler one line says so.
OPS := slm/model_zoo/gpt-3/external_ops
OPS_SOURCES := $(wildcard $(OPS)/*.toml $(OPS)/setup.py $(OPS)/csrc/*/*.* $(OPS)/python/*.py $(OPS)/python/*/*.py)

.PHONY: pretrain data test lint format docs wheel clean

pretrain: data $(VENV)/.ops
	$(BIN)/python llm/run_pretrain.py llm/config/llama/pretrain_argument_tiny.json $(FLAGS)

data: $(TINY)/dataset/corpus.idx

$(TINY)/dataset/corpus.idx: $(TINY)/tokenizer/tokenizer.json
	$(BIN)/python llm/tools/create_pretraining_data.py --tokenizer_name_or_path $(TINY)/tokenizer --input_path llm/corpus \
		--output_prefix $(TINY)/dataset/corpus --append_eos

$(TINY)/tokenizer/tokenizer.json: $(CORPUS) | $(VENV)/.run
	$(BIN)/python llm/tools/train_tokenizer.py --input_path llm/corpus --vocab_size 8192 --output_dir $(TINY)/tokenizer

test: $(VENV)/.dev $(VENV)/.ops
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.run
	$(BIN)/python -m paddlenlp.trainer.argument_docs
	$(BIN)/python -m paddlenlp.planning.speed_docs

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ops: $(OPS_SOURCES) $(VENV)/.run
	@if ! command -v $${CXX:-g++} > /dev/null; then \
		echo "No C++ compiler: training goes on without the fused operations of $(OPS), slower."; \
	else \
		echo "Building the fused operations of $(OPS): once, about a minute."; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./$(OPS) > $(VENV)/ops.log 2>&1 \
			|| echo "The fused operations were not built (see $(VENV)/ops.log): training goes on without them, slower."; \
		touch $@; \
	fi

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 9) <= v <= (3, 12) else "Python 3.9 to 3.12 is needed, %s is %d.%d; give another: make PYTHON=python3.11" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
