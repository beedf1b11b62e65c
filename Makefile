# eomirror: every verb of this checkout. `make` alone lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON := $(shell PYTHON="$(PYTHON)" integration/prereqs.sh --python)
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -q
LOCKED := $(VENV)/.locked
BUILT := $(VENV)/.built
KERNEL := setup.py pyproject.toml $(wildcard eomirror/*.pyx eomirror/*.pxd eomirror/fastpath/*)
STAMP = $(shell sha256sum $(1) | cut -c1-16).stamp
KAFKA := .work/kafka/$(call STAMP,pom.xml) .work/kafka-3.9/$(call STAMP,pom-3.9.xml)
COMMA := ,
FUZZ_SECONDS ?= 60
# What `make test-containers` runs: the harness itself, then what kills and freezes brokers, or rewrites their logs.
IN_CONTAINERS ?= harness rawlog exactly_once restart markers secured source_faults
SKIPPED := $(subst $(COMMA), ,$(ALLOW_SKIP))

.PHONY: help
help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

.PHONY: prereqs
prereqs: ## print what this machine must have: version, found or missing, package
	@PYTHON="$(PYTHON)" integration/prereqs.sh

.PHONY: venv
venv: $(BUILT) ## virtual environment from the lock file, with the compiled extension

$(LOCKED): requirements.lock | prereqs
	@echo "virtual environment"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@touch $@

$(BUILT): $(LOCKED) $(KERNEL) | prereqs
	@echo "compiled extension"
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

.PHONY: kafka
kafka: $(KAFKA) ## Kafka's jars for the test clusters, in .work/kafka/libs and .work/kafka-3.9/libs

.work/kafka/%.stamp: POM = pom.xml
.work/kafka-3.9/%.stamp: POM = pom-3.9.xml
$(KAFKA): | prereqs
	@echo "Kafka's jars ($(POM))"
	@rm -rf $(@D)
	@mkdir -p $(@D)
	@mvn -B -q -f $(POM) dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)/libs \
		> $(@D)/maven.log 2>&1 || { cat $(@D)/maven.log; exit 1; }
	@touch $@

.PHONY: demo
demo: $(BUILT) $(KAFKA) ## a million records mirrored, killed again and again, checked (KEEP=1 leaves the clusters up)
	@$(BIN)/python -m integration.demo

.PHONY: test
test: $(BUILT) $(if $(filter java maven integration,$(SKIPPED)),,$(KAFKA)) ## lint, types, tests, checks of the kernel (ALLOW_SKIP=name skips one by name)
	@ALLOW_SKIP="$(ALLOW_SKIP)" $(BIN)/python -m integration.suite

.PHONY: test-containers
test-containers: $(BUILT) ## tests with each broker in a container: a Docker daemon, no Java (EOMIRROR_TEST_KAFKA_IMAGE=name)
	@EOMIRROR_TEST_KAFKA=containers $(BIN)/python -m pytest -vv -rs --numprocesses=3 --dist=worksteal \
		$(IN_CONTAINERS:%=integration/test_%.py)

.PHONY: test-unit
test-unit: $(BUILT) ## unit tests: seconds, no broker
	@$(BIN)/python -m pytest tests

.PHONY: sanitize
sanitize: $(BUILT) ## the kernel's tests and the fuzz corpus under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(BIN)/python -m checks.sanitize

.PHONY: fuzz
fuzz: $(BUILT) ## the kernel under libFuzzer, guided by coverage (FUZZ_SECONDS=60)
	@$(BIN)/python -m checks.fuzz --seconds=$(FUZZ_SECONDS)

.PHONY: coverage
coverage: $(BUILT) ## the kernel's lines that its tests reach, by file; at least 95 %
	@$(BIN)/python -m checks.lines

.PHONY: instructions
instructions: $(BUILT) ## what the kernel costs in instructions, beside the baseline (ACCEPT=1 makes a new one)
	@ACCEPT="$(ACCEPT)" $(BIN)/python -m checks.instructions

.PHONY: bench-kernel
bench-kernel: $(BUILT) ## the kernel's speed on one core, beside memcpy and the CRC alone; a dated file in bench/results
	@$(BIN)/python -m bench.kernel

.PHONY: bench
bench: $(BUILT) $(KAFKA) ## eomirror beside MirrorMaker 2, outputs checked; dated files in bench/results, about an hour (BENCH="--smoke")
	@$(BIN)/python -m bench.mirror $(BENCH)

.PHONY: lint
lint: $(BUILT) ## ruff and mypy
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

.PHONY: format
format: $(BUILT) ## rewrite the code as ruff wants it
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: clean
clean: ## remove everything that make made
	rm -rf $(VENV) .work build dist *.egg-info eomirror/_fastpath*.so eomirror/_fastpath.c eomirror/_fastpath.html
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find eomirror tests integration checks bench -name __pycache__ -type d -exec rm -rf {} +
