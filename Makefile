# Everything a contributor runs. `make` alone lists the targets.
#
# PYTHON   the interpreter the environments are made from
# ARGS     further arguments for demo, serve, bench and test

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
RAY_BIN := .venv-ray/bin
RAY_READY := .venv-ray/.ready
SUPPLY_BIN := .venv-supply/bin
SUPPLY_READY := .venv-supply/.ready
LOCKED_READY := .venv-locked/.ready
PROTO_BIN := .venv-proto/bin
PROTO_READY := .venv-proto/.ready
BUF := proto/node_modules/.bin/buf
BUF_READY := proto/node_modules/.ready
INTEROP := tests/interop
INTEROP_BIN := .venv-interop/bin
INTEROP_READY := .venv-interop/.ready
INTEROP_NPM_READY := $(INTEROP)/node_modules/.ready
WEB := server/headstream/server/explorer/web
WEB_READY := $(WEB)/node_modules/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo serve bench gpu test reliability ray coverage check format clean lock sbom \
	check-format check-lint check-types check-mypy check-pyright check-imports check-layout explorer check-explorer \
	proto check-proto check-buf breaking

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nArguments go through ARGS: make serve ARGS="--port 50052"\n'

##@ Use

setup: $(READY) interop ## Make .venv with everything the targets below need, and the clients of tests/interop

demo: $(READY) ## Start a server with a small real model and talk to it
	$(BIN)/python -m headstream.server.cli demo $(ARGS)

serve: $(READY) ## Serve (model and port in ARGS)
	$(BIN)/headstream serve $(ARGS)

bench: $(READY) ## Measure beside other engines (ARGS="--quick" for a try; see tests/bench/README.md)
	$(BIN)/python tests/bench/bench.py $(ARGS)

gpu: $(READY) ## On a machine with a CUDA GPU: its tests, then its benchmark, all into build/gpu (never run on one yet)
	$(BIN)/python tests/bench/gpu.py --out build/gpu $(ARGS)

##@ Develop

test: $(READY) ## Run the tests (ARGS="-m 'not slow'" for the quick ones)
	$(BIN)/python -m pytest $(ARGS)

reliability: $(READY) interop ## The long form of the tests behind load balancers; rewrites docs/reliability.md
	$(BIN)/python -m pytest --long tests/reliability tests/interop $(ARGS)

.PHONY: interop
interop: $(INTEROP_READY) # Without npm the cases of Node.js are skipped.
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(INTEROP_NPM_READY); \
	else echo "the clients of Node.js are not installed: that needs npm"; fi

ray: $(RAY_READY) ## The tests of the Ray Serve application, in an environment of its own (Ray takes half a gigabyte)
	$(RAY_BIN)/python -m pytest tests/reliability/test_ray.py $(ARGS)

coverage: $(READY) ## Run the tests and show the lines they miss
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: check-format check-lint check-types check-imports check-layout check-buf check-proto check-explorer ## Everything that is checked without running the service

format: $(READY) $(BUF_READY) ## Rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BUF) format --write proto

check-format: $(READY) ## Formatting (ruff)
	$(BIN)/ruff format --check .

check-lint: $(READY) ## Lint (ruff)
	$(BIN)/ruff check .

check-types: check-mypy check-pyright ## Types (mypy and pyright, both strict)

check-mypy: $(READY)
	$(BIN)/mypy

check-pyright: $(READY)
	$(BIN)/pyright

check-imports: $(READY) ## Who may import whom (import-linter)
	$(BIN)/lint-imports --no-logo

check-layout: $(READY) ## The rules no linter knows (tests/test_layout.py)
	$(BIN)/python -m pytest -q tests/test_layout.py

##@ Explorer

explorer: $(WEB_READY) ## Check, test and build the explorer's page; what is built is committed
	npm --prefix $(WEB) run --silent check
	npm --prefix $(WEB) run --silent test
	npm --prefix $(WEB) run --silent build -- --logLevel warn

check-explorer: ## The page's types and tests, and that the built files are those of its sources
	@if node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null; \
	then $(MAKE) --no-print-directory compare-explorer; \
	else echo "the explorer's page is not checked: that needs Node.js 20.19 or newer"; fi

.PHONY: compare-explorer
compare-explorer: $(WEB_READY)
	npm --prefix $(WEB) run --silent check
	npm --prefix $(WEB) run --silent test
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	npm --prefix $(WEB) run --silent build -- --logLevel warn --outDir "$$fresh" && \
	diff -r "$$fresh" $(WEB)/../static && echo "the explorer's page is up to date" || \
	{ echo "error: the built page differs from its sources; run make explorer" >&2; exit 1; }

##@ Protocol

proto: $(PROTO_READY) ## Generate the Python stubs from proto/headstream/v1/*.proto
	proto/generate.sh $(PROTO_BIN)/python proto

check-proto: $(PROTO_READY) ## The stubs in the tree are those that `make proto` makes
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	proto/generate.sh $(PROTO_BIN)/python "$$fresh" && \
	(cd proto && find headstream -name '*_pb2*' -not -path '*/__pycache__/*' | LC_ALL=C sort) > "$$fresh/kept" && \
	(cd "$$fresh" && find headstream -name '*_pb2*' | LC_ALL=C sort) > "$$fresh/made" && \
	diff "$$fresh/kept" "$$fresh/made" && \
	(while read -r stub; do diff -u "proto/$$stub" "$$fresh/$$stub" || exit 1; done < "$$fresh/made") && \
	echo "the stubs are up to date" || { echo "error: the stubs differ from the .proto files; run make proto" >&2; exit 1; }

check-buf: $(BUF_READY) ## Lint and format of the .proto files (buf)
	$(BUF) lint proto
	$(BUF) format --diff --exit-code proto

breaking: $(BUF_READY) ## Changes since AGAINST (a tag or branch, default main) that break callers
	$(BUF) breaking proto --against '.git#ref=$(or $(AGAINST),main),subdir=proto'

##@ Supply chain

lock: $(SUPPLY_READY) ## Write requirements.lock: versions and hashes of all that server, lookup and traces need, but torch
	$(SUPPLY_BIN)/uv pip compile pyproject.toml --extra server --extra lookup --extra otel --constraint constraints.txt \
		--universal --python-version 3.11 --generate-hashes --no-emit-package torch \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

sbom: $(LOCKED_READY) $(SUPPLY_READY) ## Write dist/headstream.cdx.json: what an installation from the lock holds (CycloneDX)
	mkdir -p dist
	$(SUPPLY_BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-format JSON --output-file dist/headstream.cdx.json .venv-locked/bin/python

##@ Clean

clean: ## Remove environments, caches and build output
	rm -rf .venv .venv-proto .venv-supply .venv-locked .venv-interop .venv-ray proto/node_modules \
		$(WEB)/node_modules $(INTEROP)/node_modules dist build htmlcov .coverage .coverage.* \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find proto client server model tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Environments: remade when what they are made from changes ---

# torch goes first and by exact version, so that no other package can choose another build of it.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: Headstream needs Python 3.11 or newer; name one with make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --editable '.[server,embedded,minilm,lookup,bench,dev]' --constraint constraints.txt
	touch $@

$(RAY_READY): pyproject.toml constraints.txt
	test -x $(RAY_BIN)/python || $(PYTHON) -m venv .venv-ray
	$(RAY_BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(RAY_BIN)/python -m pip install --quiet --editable '.[server,ray]' pytest pytest-asyncio pytest-timeout --constraint constraints.txt
	touch $@

$(SUPPLY_READY): pyproject.toml constraints.txt
	test -x $(SUPPLY_BIN)/python || $(PYTHON) -m venv .venv-supply
	$(SUPPLY_BIN)/python -m pip install --quiet --constraint constraints.txt cyclonedx-bom uv
	touch $@

# As a user installs it: everything by its hash, beside a torch of their choice.
$(LOCKED_READY): requirements.lock pyproject.toml
	rm -rf .venv-locked
	$(PYTHON) -m venv .venv-locked
	.venv-locked/bin/python -m pip install --quiet --no-deps "$$(grep '^torch==' constraints.txt)"
	.venv-locked/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	.venv-locked/bin/python -m pip install --quiet --no-deps .
	.venv-locked/bin/python -m pip check
	touch $@

$(PROTO_READY): proto/requirements.txt
	test -x $(PROTO_BIN)/python || $(PYTHON) -m venv .venv-proto
	$(PROTO_BIN)/python -m pip install --quiet --requirement proto/requirements.txt
	touch $@

$(BUF_READY): proto/package.json proto/package-lock.json
	@command -v npm >/dev/null || { echo "error: the .proto files are checked with buf, which comes from npm:" \
		"install Node.js with npm (Debian: apt-get install npm), then run this again" >&2; exit 1; }
	npm --prefix proto ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

# Clients with versions of grpcio and protobuf of their own.
$(INTEROP_READY): $(INTEROP)/requirements.txt
	test -x $(INTEROP_BIN)/python || $(PYTHON) -m venv .venv-interop
	$(INTEROP_BIN)/python -m pip install --quiet --requirement $(INTEROP)/requirements.txt
	touch $@

$(INTEROP_NPM_READY): $(INTEROP)/package.json $(INTEROP)/package-lock.json
	npm --prefix $(INTEROP) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

$(WEB_READY): $(WEB)/package.json $(WEB)/package-lock.json
	@command -v npm >/dev/null || { echo "error: the explorer's page is built with Vite, which comes from npm:" \
		"install Node.js 20.19 or newer with npm, then run this again" >&2; exit 1; }
	npm --prefix $(WEB) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@
