# Thin: every target calls a command that also works by itself.
BIN := .venv/bin

.PHONY: demo test test-slow lint bench bench-full bench-gpu boards schema .venv

.venv: .venv/.installed

# A half-made environment has no stamp, so an interrupted installation is repeated.
.venv/.installed: constraints.txt pyproject.toml
	python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv
	$(BIN)/avbench evaluate avbench--synthav-concat --suite cvpr21-attack --output-dir runs/demo
	$(BIN)/avbench leaderboard build --results runs/demo --out build/site

test: .venv
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

# What is long, or one of many alike.
test-slow: .venv
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m slow

lint: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/zizmor --quiet --offline --persona pedantic .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml

# Other libraries of attacks, without what they ask for: torchattacks wants an old requests, and needs it for no attack.
PEERS := build/peers

$(PEERS): pyproject.toml | .venv
	$(BIN)/python -m pip install --quiet --upgrade --target $@ --no-deps torchattacks==3.5.1 foolbox==3.3.4 \
	  adversarial-robustness-toolbox==1.20.1 eagerpy==0.30.0 gitpython gitdb smmap six setuptools
	touch $@

# Ratios to other libraries, and growth, into benchmarks/RESULTS.md; minutes.
bench: .venv $(PEERS)
	OMP_NUM_THREADS=1 PYTHONPATH=.:$(PEERS) $(BIN)/python benchmarks/speed.py

# The same at the papers' batch and steps; two hours.
bench-full: .venv $(PEERS)
	OMP_NUM_THREADS=1 PYTHONPATH=.:$(PEERS) $(BIN)/python benchmarks/speed.py --full

# Where a GPU is: the goals there, and the same libraries, into benchmarks/gpu.md.
bench-gpu: .venv $(PEERS)
	PYTHONPATH=.:$(PEERS) $(BIN)/python benchmarks/gpu.py > build/gpu.md
	mv build/gpu.md benchmarks/gpu.md

# Hours: trains and evaluates what is missing; see benchmarks/boards.py.
boards: .venv
	$(BIN)/python benchmarks/boards.py
	$(BIN)/avbench leaderboard build

# The form of submissions as JSON Schema, for editors.
schema: .venv
	$(BIN)/python -m avbench.form > docs/submission.schema.json
