# `make demo` and `make test` work in a fresh clone: the first call creates .venv and installs everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ARGS ?=
WORKERS ?= 2
SECONDS ?= 600
SEED ?= 1
HOURS ?= 8
ALERTS := deploy/prometheus/alerts.yml
RULES := deploy/kubernetes/components/monitoring/rules.yaml

generate_rules = { sed /^spec:/q $(RULES); sed '1,/^groups:/{/^groups:/!d}; s/^./  &/' $(ALERTS); } > $(RULES).new \
	&& mv $(RULES).new $(RULES)

.PHONY: help setup demo test check types style format protos client docs bench chaos soak schemathesis manifests \
	runbooks clean

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv/.installed  ## Create .venv and install everything into it, once

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	$(BIN)/pip download --quiet --disable-pip-version-check -c constraints.txt -d .venv/wheelhouse .
	@touch $@

demo: setup  ## Run the demo: real photographs, four shards, demo.html (ARGS="--keep" keeps it running)
	$(BIN)/lookalike demo $(ARGS)

# Bytecode is kept whatever the environment says, because the tests start hundreds of processes.
test: export PYTHONDONTWRITEBYTECODE =
test: setup  ## Run all checks and tests, as CI does (ARGS goes to pytest; WORKERS=1 runs them sequentially)
	@$(MAKE) --no-print-directory -j 2 check
	$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: types style  ## Check format, lint, types, layers, and that stubs and docs/api are up to date

types: setup
	$(BIN)/mypy

style: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check
	$(BIN)/python scripts/unasync.py --check
	$(BIN)/python docs/generate.py --check

format: setup  ## Format the code and fix lint findings
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

protos: setup  ## Generate lookalike/v1 from protos/
	$(BIN)/python protos/generate.py

client: setup  ## Generate the SDK's blocking client from the asynchronous one
	$(BIN)/python scripts/unasync.py

docs: setup  ## Generate docs/api from protos/, docstrings and commands
	$(BIN)/python docs/generate.py

bench: setup  ## Benchmark the scan and plot it (ARGS: see lookalike bench --help); more in benchmarks/README.md
	$(BIN)/lookalike bench --plots docs/benchmarks $(ARGS)

chaos: setup  ## Inject faults into a cluster and check every answer (SECONDS=600 SEED=1; ARGS="--replicas 3")
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) $(ARGS)

soak: setup  ## Run mixed load and fail if memory, files, threads or disk keep growing (HOURS=8; ARGS="--encoder")
	$(BIN)/python -m tests.soak --hours $(HOURS) $(ARGS)

manifests: setup  ## Generate the shards of every deployment folder, and the alert rules for Kubernetes
	for folder in deploy/compose/cluster deploy/kubernetes/overlays/*; do $(BIN)/lookalike manifests $$folder || exit; done
	@$(generate_rules)

runbooks:  ## Make the alerts link to your copy of docs/ (DOCS=https://HOST/PATH)
	@case '$(DOCS)' in https://?*|http://?*) ;; *) echo 'error: DOCS: set it to the URL of docs/' >&2; exit 1;; esac
	@sed 's,\(runbook_url: \).*/\([A-Z]*\.md#\),\1$(DOCS:/=)/\2,' $(ALERTS) > $(ALERTS).new && mv $(ALERTS).new $(ALERTS)
	@$(generate_rules)

schemathesis: setup  ## Check the REST API with Schemathesis for a minute
	LOOKALIKE_SCHEMATHESIS=1 $(BIN)/pytest -n0 -q tests/web/test_schemathesis.py

clean:  ## Remove everything that make created
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
