# make env: the environment. make deps: code dependencies of dvc.yaml. make demo: the embedded benchmark. make test: everything tested. make check: lint, types.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)

.PHONY: deps env demo test smoke test-browser check bench clean

env: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: env data/refshapes/.made
	dvc repro demo/dvc.yaml
	python -m pipeline metrics --params demo/params.yaml

data/refshapes/.made: demo/refshapes.py demo/scenes.py demo/captions.py demo/outlines.py | env
	rm -rf data/refshapes
	python -m demo.refshapes --out data/refshapes
	touch $@

deps: env
	python -m pipeline.deps

check: env
	ruff check .
	ruff format --check .
	mypy
	python -m pytest tests/pipeline/test_layers.py tests/pipeline/test_dvc.py

test: env
	python -m pytest

# The networks of the true sizes, random weights, two photographs, through DVC: about three minutes, under 8 GB.
smoke: env
	python -m pytest -m smoke tests/pipeline/test_true_size.py

test-browser: env
	python -m pytest -m browser tests/page/test_report.py

bench: env data/refshapes/.made
	python -m benchmarks

# The environment and the demo's files; never what you put under data/ for the full benchmark.
clean:
	rm -rf .venv data/demo data/refshapes .work/demo
