# The recipes that people and CI share. `make` alone lists them.

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
export ATOLL_GUEST_BIN ?= $(CURDIR)/target/static/atoll-guest
export ATOLL_SHIM_BIN ?= $(CURDIR)/target/static/atoll-shim

.PHONY: help
help: ## List the recipes
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/' | expand -t 16

.PHONY: packages
packages: ## Install the Debian packages that build, tests and demo need (as root)
	scripts/packages.sh

.PHONY: static
static: ## Build the shim and the guest, which the program embeds
	scripts/build-static.sh

.PHONY: build
build: static ## Build the program (profile lab)
	cargo build --profile lab -p atoll -p atoll-lab

.PHONY: release
release: static ## Build the optimised program
	cargo build --release -p atoll

.PHONY: format
format: ## Format the code
	cargo fmt --all

.PHONY: lint
lint: static ## Check format and lints
	cargo fmt --all --check
	cargo clippy --profile lab --workspace --all-targets -- -D warnings

.PHONY: unit
unit: static ## Unit tests; need no root
	cargo test --profile lab --workspace --lib --bins

.PHONY: check
check: lint unit ## Format, lints and unit tests: green at every commit

.PHONY: test
test: ## Every test; needs root
	scripts/test.sh

.PHONY: fuzz
fuzz: static ## Fuzz what reads foreign bytes (ONLY=target, SECONDS=60 each)
	ONLY="$(ONLY)" SECONDS_EACH="$(SECONDS)" scripts/fuzz.sh

.PHONY: demo
demo: ## Start a platform of three regions behind one anycast address here, break things (ONCE=1: end by itself)
	scripts/demo.sh

.PHONY: bench
bench: ## Measure the optimised program against its budgets (ONLY=<name>: one bench)
	scripts/bench.sh $(ONLY)

.PHONY: clean
clean: ## Remove what was built
	rm -rf $(CARGO_TARGET_DIR)
