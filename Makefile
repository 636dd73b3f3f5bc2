# What people and CI type. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(HOME)/.cache/signet/target
export SIGNET_MUTANT_PROXY ?= $(CARGO_TARGET_DIR)/mutant/signet-proxy
export SIGNET_TOOLS ?= $(HOME)/.cache/signet/tools
export SIGNET_TEST_RESULTS ?= $(HOME)/.cache/signet/test-results.txt
# .cargo/config.toml names a target, so cargo builds below its name. Asked only by the targets that use it.
BIN = $(CARGO_TARGET_DIR)/$(shell rustc -vV | sed -n 's/^host: //p')/debug

.PHONY: help
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## A mesh on this machine: services in and outside it, and the proof (KEEP=1 leaves it running)
	@echo "building signet, signet-proxy and signet-gateway (the first time takes a few minutes) ..." >&2
	cargo build --locked -p signet-cli -p signet-proxy -p signet-gateway --bins
	"$(BIN)/signet" demo $(if $(KEEP),,--once)

.PHONY: test
test: ## Every test, with real programs and a real Kubernetes, then docs/acceptance.md against what ran
	scripts/stage.sh apt scripts/apt.sh
	scripts/stage.sh local-apps scripts/local-apps.sh
	scripts/stage.sh origins scripts/origins.sh
	scripts/stage.sh build scripts/build-tests.sh
	scripts/stage.sh programs "$(BIN)/signet-cluster" build
	scripts/stage.sh images "$(BIN)/signet-cluster" image-dev "$(BIN)"
	scripts/test.sh

.PHONY: lint
lint: ## Format, clippy, the walls of the house, dependencies
	scripts/stage.sh fmt cargo fmt --all --check
	scripts/stage.sh scripts scripts/check-scripts.sh
	scripts/stage.sh walls scripts/walls.sh
	scripts/stage.sh deny scripts/deny.sh
	scripts/stage.sh clippy cargo clippy --locked --workspace --all-targets -- -D warnings

.PHONY: cluster
cluster: cluster-build ## A real Kubernetes on this machine, left running (NODES=1 for a smaller one); prints its KUBECONFIG, and the PATH to kubectl and signet
	"$(BIN)/signet-cluster" up $(if $(NODES),--nodes $(NODES))

.PHONY: cluster-down
cluster-down: ## Stop it; nothing of it is left
	"$(BIN)/signet-cluster" down

.PHONY: kubectl
kubectl: ## kubectl on it: make kubectl ARGS='get pods -A'
	@"$(BIN)/signet-cluster" kubectl $(ARGS)

.PHONY: cluster-build
cluster-build: ## What it is made of: Kubernetes from its Go modules, images from Debian's packages (16 minutes the first time)
	scripts/stage.sh apt scripts/apt.sh
	scripts/stage.sh cargo cargo build --locked --workspace --all-targets
	scripts/stage.sh programs "$(BIN)/signet-cluster" build
	scripts/stage.sh images "$(BIN)/signet-cluster" image-dev "$(BIN)"

.PHONY: conformance-build
conformance-build: ## The conformance suite of the Gateway API, as one program; prints where it is
	"$(BIN)/signet-cluster" conformance-build

.PHONY: image
image: ## The image that ships, as OCI archive in ~/.cache/signet/images (ARCH="amd64 arm64" for several)
	scripts/image.sh $(ARCH)

.PHONY: acceptance-update
acceptance-update: ## Write the last durations into docs/acceptance.md
	"$(BIN)/acceptance" update "$(SIGNET_TEST_RESULTS)" docs

.PHONY: soak
soak: ## The long promises (1 GiB, 10 000 connections, rotation under load); leaves docs/soak/*.json
	scripts/stage.sh apt scripts/apt.sh
	scripts/stage.sh soak scripts/soak.sh

.PHONY: bench
bench: ## The numbers that the issues promise, data plane and edge beside their peers; leaves docs/bench/* (QUICK=1 prints the latter, in 7 minutes)
ifdef QUICK
	@failed=0; scripts/stage.sh dataplane scripts/bench-dataplane.sh --quick || failed=1; \
	scripts/stage.sh edge scripts/bench-edge.sh --quick || failed=1; exit $$failed
else
	@failed=0; scripts/stage.sh bench scripts/bench.sh || failed=1; \
	scripts/stage.sh dataplane scripts/bench-dataplane.sh --publish || failed=1; \
	scripts/stage.sh edge scripts/bench-edge.sh --publish || failed=1; exit $$failed
endif

.PHONY: bench-dataplane
bench-dataplane: ## One cell of the data plane's: make bench-dataplane ARGS='--systems haproxy,signet --workloads keepalive-16 --rounds 3'
	@scripts/bench-dataplane.sh $(ARGS)

.PHONY: bench-edge
bench-edge: ## One cell of the edge's: make bench-edge ARGS='--systems nginx,signet --workloads h1-16 --rounds 3'
	@scripts/bench-edge.sh $(ARGS)

.PHONY: fuzz
fuzz: ## Every parser of a stranger's bytes, SECONDS_EACH=60 seconds each, on nightly
	scripts/stage.sh fuzz scripts/fuzz.sh
