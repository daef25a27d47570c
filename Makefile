# make env: the environment. make demo: the embedded benchmark. make methods: all methods on it. make test: everything tested. make check: lint, types, layers.
# make fix: what lint, format and dependencies can mend. make docs: pages of the docstrings. make deps: code deps of dvc.yaml.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
CHECKS = "ruff check ." "ruff format --check ." "mypy" "python -m pytest tests/pipeline/test_layers.py tests/pipeline/test_dvc.py"

.PHONY: deps docs env demo fix methods test smoke test-browser check bench faults clean

env: .venv/.installed

# The programs of an environment hold the path of its folder: where that was renamed or copied, it is made again.
MADE_IN := $(shell cat .venv/.installed 2>/dev/null)
ifneq ($(MADE_IN),$(CURDIR))
.PHONY: .venv/.installed
endif

.venv/.installed: pyproject.toml constraints.txt
	@test -z "$(MADE_IN)" -o "$(MADE_IN)" = "$(CURDIR)" || echo "the environment was made in $(MADE_IN): it is made again here"
	$(PYTHON) -m venv $(if $(filter-out $(CURDIR),$(MADE_IN)),--clear) .venv
	.venv/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	.venv/bin/python -m pipeline.setup.kernels
	echo "$(CURDIR)" > $@

demo: env data/refshapes/.made | .git
	dvc repro demo/dvc.yaml
	@python -m pipeline metrics --params demo/params.yaml
	@python -m demo.results

# Every method on five splits of the benchmark: ten to fifteen minutes on two slow cores (docs/methods.md).
methods: env data/refshapes/.made | .git
	dvc repro demo/methods/dvc.yaml
	@python -m pipeline metrics --params demo/methods/params.yaml

# DVC works in a git repository only: a folder that was unpacked from an archive becomes one.
.git:
	git init -q .

data/refshapes/.made: demo/refshapes.py demo/scenes.py demo/captions.py demo/outlines.py | env
	rm -rf data/refshapes
	python -m demo.refshapes --out data/refshapes
	touch $@

deps: env
	python -m pipeline.deps

# Every tool runs, whatever the one before it found.
check: env
	@failed=; for tool in $(CHECKS); do echo "$$tool"; $$tool || failed="$$failed; $$tool"; done; \
	if [ -n "$$failed" ]; then echo "make check failed in$${failed#;}" >&2; exit 1; fi

fix: env
	-ruff check --fix .
	ruff format .
	python -m pipeline.deps

# On all cores, a file's tests in one process; threads per process: tests/conftest.py.
test: env
	python -m pytest -n auto --dist loadfile

docs: env
	rm -rf build/api
	python -m pdoc --docformat google --output-directory build/api glimpse pipeline stages store

# The networks of the true sizes, random weights, two photographs, through DVC: about three minutes, under 8 GB.
smoke: env
	python -m pytest -m smoke tests/pipeline/test_true_size.py

test-browser: env
	python -m pytest -m browser tests/page/test_page_browser.py

# Kills, errors, corruption, mutated inputs: at most half an hour; writes benchmarks/faults.json and docs/reliability.md's table.
faults: env
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m tests.faults

bench: env data/refshapes/.made
	python -m benchmarks

# The environment and the demo's files; never what you put under data/ for the full benchmark.
clean:
	rm -rf .venv build data/demo data/methods data/refshapes .work/demo .work/methods
