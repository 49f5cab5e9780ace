# The first line of each target says what it does; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
export PIP_CONSTRAINT ?= $(CURDIR)/.ci/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo app test lint docs clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed  ## set up, draw toy cars, train on them, sample, and say where the images are
	$(BIN)/ddpm-cars toy-cars --output_dir $(DEMO)/toy-cars --resolution 32
	$(BIN)/ddpm-cars show --train_data_dir $(DEMO)/toy-cars --resolution 32 --output_dir $(DEMO)
	$(BIN)/ddpm-cars train --config toy --train_data_dir $(DEMO)/toy-cars --output_dir $(DEMO)/model
	$(BIN)/ddpm-cars sample --pretrained_model_name_or_path $(DEMO)/model --num_inference_steps 100 \
		--num_images 36 --batch_size 36 --strip --output_dir $(DEMO)/samples --overwrite_output_dir
	$(BIN)/ddpm-cars sample --pretrained_model_name_or_path src/ddpm_cars/pretrained \
		--num_inference_steps 100 --num_images 36 --batch_size 36 --output_dir $(DEMO)/finished --overwrite_output_dir
	@echo
	@echo "What it learned from:   $(DEMO)/dataset.png"
	@echo "How images drown:       $(DEMO)/noising.png"
	@echo "How the loss fell:      $(DEMO)/model/loss.png"
	@echo "What it samples now:    $(DEMO)/samples/grid.png"
	@echo "How it gets there:      $(DEMO)/samples/denoising.png"
	@echo "What hours would give:  $(DEMO)/finished/grid.png"

app: $(VENV)/.installed  ## set up, and open a page in the browser that draws with the model in the package
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	$(BIN)/ddpm-cars demo

# Two processes of one thread each, because some tests start several processes themselves.
test: lint  ## set up, lint, check types, run every test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed  ## set up, lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed  ## set up, and build the pages of docs/ and the reference of all public names in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

clean:  ## delete what these targets have made: .venv, runs and site
	rm -rf $(VENV) runs site
