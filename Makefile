# Two commands matter: `make pretrain` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
TINY ?= data/tiny
# Further flags of run_pretrain.py, for example: make pretrain FLAGS="--max_steps 50"
FLAGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
CORPUS := $(wildcard llm/corpus/*.gz)

.PHONY: pretrain data test lint format docs wheel clean

pretrain: data
	$(BIN)/python llm/run_pretrain.py llm/config/llama/pretrain_argument_tiny.json $(FLAGS)

data: $(TINY)/dataset/corpus.idx

$(TINY)/dataset/corpus.idx: $(TINY)/tokenizer/tokenizer.json
	$(BIN)/python llm/tools/create_pretraining_data.py --tokenizer_name_or_path $(TINY)/tokenizer --input_path llm/corpus \
		--output_prefix $(TINY)/dataset/corpus --append_eos

$(TINY)/tokenizer/tokenizer.json: $(CORPUS) | $(VENV)/.run
	$(BIN)/python llm/tools/train_tokenizer.py --input_path llm/corpus --vocab_size 8192 --output_dir $(TINY)/tokenizer

test: $(VENV)/.dev
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

wheel: $(VENV)/.dev
	$(BIN)/python -m build --wheel

$(VENV)/.run: requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 9) <= v <= (3, 12) else "Python 3.9 to 3.12 is needed, %s is %d.%d; give another: make PYTHON=python3.11" % (sys.executable, *v))'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
