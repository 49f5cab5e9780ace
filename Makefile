# make demo draws toy cars, trains on them and samples. make test checks everything that has to hold. Both install what
# they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
export PIP_CONSTRAINT ?= $(CURDIR)/.ci/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo app test lint docs clean

demo: $(VENV)/.installed
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

# A page in the browser that samples from the model inside the package.
app: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	$(BIN)/ddpm-cars demo

# Two processes of one thread each, because some tests start several processes themselves.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages of docs/ and the reference of the public names, as a site in site/.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --group dev --editable .
	touch $@

clean:
	rm -rf $(VENV) runs site
