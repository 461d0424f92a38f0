# What a developer does with this project. `make` alone says what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --warn-undefined-variables
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PYTEST_ARGS ?=
ADDRESS ?= localhost:50051

BIN := .venv/bin
GEN := .venv-gen/bin
TOOLS := .build/bin
SETUP := .venv/.done
SETUP_GEN := .venv-gen/.done
SETUP_PROTOS := .build/protos/.done

# Directories of hand-written Python that exist so far.
CODE := $(wildcard server clients/python clients/cli)
LINTED := $(CODE) $(wildcard tests bench) gen/generate.py

.PHONY: help
help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Environments

.PHONY: setup
setup: $(SETUP) ## Make .venv with everything locked in requirements/dev.lock

# $(call venv,DIRECTORY): a fresh virtual environment, with a Python that is new enough.
define venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "openfacility needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	     "Name another one: make PYTHON=/path/to/python3" >&2; exit 1; }
$(PYTHON) -m venv --clear $(1)
endef
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check

# Exists as soon as .venv does, so that a changed lock updates .venv instead of making it anew.
.venv/bin/python:
	$(call venv,.venv)

$(SETUP): requirements/dev.lock pyproject.toml | .venv/bin/python
	$(BIN)/$(PIP_INSTALL) --require-hashes -r requirements/dev.lock
	$(BIN)/$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	touch $@

$(SETUP_GEN): requirements/gen.lock
	$(call venv,.venv-gen)
	$(GEN)/$(PIP_INSTALL) --require-hashes -r requirements/gen.lock
	touch $@

$(SETUP_PROTOS): $(SETUP_GEN) requirements/sdist.lock gen/generate.py
	$(GEN)/python gen/generate.py --protos-only
	touch $@

.PHONY: lock
lock: $(SETUP) ## Lock the newest versions that pyproject.toml and requirements/*.in allow
	$(LOCK) --all-extras pyproject.toml -o requirements/dev.lock
	$(LOCK) requirements/gen.in -o requirements/gen.lock
	$(LOCK) requirements/floor.in -o requirements/floor.lock
LOCK = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-strip-extras --no-header --no-annotate --no-emit-index-url --no-emit-find-links

SLURM_PROGRAMS := munged mariadbd mariadb-install-db my_print_defaults slurmdbd sacctmgr slurmctld slurmd slurmrestd sbatch
SLURM_PACKAGES := munge mariadb-server-core mariadb-client-core slurmdbd slurmctld slurmd slurm-client slurmrestd slurm-wlm-jwt-plugin

.PHONY: test-deps
test-deps: ## Install with apt-get what the tests need and pip cannot bring
	@export PATH="$$PATH:/usr/sbin:/sbin"; missing=(); packages=(); \
	if ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		missing+=(initdb postgres); packages+=(postgresql); \
	fi; \
	slurm=(); for program in $(SLURM_PROGRAMS); do command -v "$$program" >/dev/null || slurm+=("$$program"); done; \
	if ls -d /usr/lib/*/slurm-wlm >/dev/null 2>&1 && ! ls /usr/lib/*/slurm-wlm/auth_jwt.so >/dev/null 2>&1; then \
		slurm+=(auth_jwt.so); \
	fi; \
	if [ "$${#slurm[@]}" != 0 ]; then missing+=("$${slurm[@]}"); packages+=($(SLURM_PACKAGES)); fi; \
	if [ "$${#packages[@]}" = 0 ]; then exit 0; fi; \
	as_root=(); if [ "$$(id -u)" != 0 ]; then as_root=(sudo -n); fi; \
	if ! command -v apt-get >/dev/null || ! "$${as_root[@]}" true 2>/dev/null; then \
		echo "Missing, and cannot be installed from here: $${missing[*]}"; \
		echo "Install them yourself, for instance: sudo apt-get install --no-install-recommends $${packages[*]}"; \
		exit 0; \
	fi; \
	"$${as_root[@]}" apt-get update -qq; \
	"$${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -qq --no-install-recommends "$${packages[@]}" >/dev/null

.PHONY: tools
tools: $(TOOLS)/grpcurl ## Build the Go programs that tests and demonstrations call, into .build/bin

# Go's own build cache makes a second build cheap; a finished binary is not built again.
$(TOOLS)/grpcurl: PACKAGE := github.com/fullstorydev/grpcurl/cmd/grpcurl
$(TOOLS)/protoc-gen-openapi: PACKAGE := github.com/google/gnostic/cmd/protoc-gen-openapi
$(TOOLS)/protoc-gen-go: PACKAGE := google.golang.org/protobuf/cmd/protoc-gen-go
$(TOOLS)/protoc-gen-go-grpc: PACKAGE := google.golang.org/grpc/cmd/protoc-gen-go-grpc
GO_PLUGINS := $(addprefix $(TOOLS)/,protoc-gen-openapi protoc-gen-go protoc-gen-go-grpc)
$(TOOLS)/grpcurl $(GO_PLUGINS): gen/tools/go.mod gen/tools/go.sum
	mkdir -p $(@D)
	cd gen/tools && go build -trimpath -ldflags='-s -w' -o ../../$@ $(PACKAGE)

# Without Go the stubs for Python and the descriptor can still be made; CI must have it.
HAVE_GO := $(shell command -v go)
GEN_TOOLS := $(SETUP_PROTOS) $(if $(HAVE_GO),$(GO_PLUGINS))

##@ Work

.PHONY: run
run: setup ## Start a small facility on this machine
	$(BIN)/openfacility-server demo

.PHONY: demo-slurm
demo-slurm: setup test-deps ## Start a small facility with a private Slurm behind it
	$(BIN)/python -m tests.engines.slurm.demo

.PHONY: gen
gen: setup $(GEN_TOOLS) ## Make gen/ from protos/, and the sync client from the async one
	$(GEN)/python gen/generate.py
	$(BIN)/python clients/python/generate_sync.py

.PHONY: format
format: setup $(SETUP_PROTOS) ## Format the code and the protos
	$(BIN)/ruff check --fix-only --quiet $(LINTED)
	$(BIN)/ruff format $(LINTED)
	$(GEN)/buf format -w protos

.PHONY: clean
clean: ## Remove everything that make has made
	rm -rf .build .venv .venv-gen dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

##@ Checks

.PHONY: test
test: setup test-deps tools check ## Run every check and every test
	$(BIN)/pytest --numprocesses 2 --dist loadgroup $(PYTEST_ARGS)

.PHONY: check
check: lint types breaking gen-check floor-check ## Run every check, without the tests

.PHONY: lint
lint: setup $(SETUP_PROTOS) ## Check style: ruff, buf
	$(BIN)/ruff check $(LINTED)
	$(BIN)/ruff format --check $(LINTED)
	$(GEN)/buf lint
	$(GEN)/buf format protos --diff --exit-code

.PHONY: types
types: setup ## Check types: mypy, strict
	$(BIN)/mypy $(CODE)

.PHONY: breaking
breaking: $(SETUP_PROTOS) ## Check that protos/ breaks nobody who uses the last release
	@tag=$$(git describe --tags --match 'v*' --abbrev=0 2>/dev/null) \
		|| { echo "breaking: no release (tag v*) yet, so nothing to break"; exit 0; }; \
	old=.build/breaking; rm -rf $$old; mkdir -p $$old/.build; \
	git archive "$$tag" buf.yaml protos | tar -x -C $$old; \
	cp -R .build/protos $$old/.build/protos; \
	$(GEN)/buf build $$old/protos -o $$old/image.binpb; \
	echo "breaking: protos against $$tag"; \
	$(GEN)/buf breaking protos --against $$old/image.binpb

.PHONY: gen-check
gen-check: setup $(GEN_TOOLS) ## Check that what is generated is what its sources make
	$(GEN)/python gen/generate.py --check
	$(BIN)/python clients/python/generate_sync.py --check

FLOOR := .build/floor
.PHONY: floor-check
floor-check: $(FLOOR)/.done ## Check that the stubs load on the oldest versions that pyproject.toml allows
	$(FLOOR)/bin/python gen/generate.py --import-all

$(FLOOR)/.done: requirements/floor.lock
	$(call venv,$(FLOOR))
	$(FLOOR)/bin/$(PIP_INSTALL) --require-hashes -r requirements/floor.lock
	touch $@

.PHONY: conformance
conformance: setup ## Run the service tests against a running server: make conformance ADDRESS=host:port
	$(BIN)/pytest tests/service --address $(ADDRESS) $(PYTEST_ARGS)

.PHONY: bench
bench: setup ## Run the benchmarks
	$(BIN)/python -m bench
