# Two commands do everything: make demo, make test. Both set up what they need.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

GOLANGCI_LINT := v2.15.0
# The Go that go.mod names, also for what is built outside of this module; the go command fetches it.
export GOTOOLCHAIN := $(shell sed -n 's/^toolchain //p' go.mod)+auto
export CGO_ENABLED ?= 1
TOOLS := build/tools
# Packages whose tests need root and share the kernel's cgroup root: one at a time.
PRIVILEGED := ./datapath/... ./internal/agent/... ./internal/capture/... ./internal/demo/... ./internal/hostaddr/... ./internal/lab/... ./internal/placement/... ./internal/proxy/... ./internal/sandbox/... ./test/bench/... ./test/cluster/...
# Whole-node suites: root too; make node runs them alone.
NODE := ./test/attack/... ./test/node/... ./test/faults/... ./test/pods/... ./test/transparency/... ./test/http/... ./test/servicemap/...
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD := go build -trimpath -ldflags "-X main.version=$(VERSION)"
# The first build fetches some hundred modules; a line for each hides the rest.
QUIET := 2> >(grep -v '^go: downloading ' >&2)

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

.PHONY: build
build: ## bin/weft
	@[[ -e bin/weft ]] || echo "building bin/weft (with the modules to fetch it takes minutes)"
	@CGO_ENABLED=0 $(BUILD) -o bin/weft ./cmd/weft $(QUIET)

.PHONY: envoy
envoy: ## bin/envoy, pinned by version and hash, unless $ENVOY or PATH has that version
	@install/envoy/get.sh bin/envoy

.PHONY: setup
setup: ## Debian or Ubuntu packages that the tests and the demo call
	@install/setup.sh

.PHONY: demo
demo: build envoy ## a working node with figures; ARGS=--exit stops after them
	@install/setup.sh ip curl || true # only what it says to try afterwards calls them
	@bin/weft demo $(ARGS)

.PHONY: sweep
sweep: setup ## takes away what tests, demos and benchmarks left that were killed; as root
	@go run ./test/sweep $(QUIET)

.PHONY: test
test: sweep ## all that needs no cluster
	@$(MAKE) --no-print-directory lint unit privileged # not prerequisites: with -j they would run while sweep does

.PHONY: unit
unit: setup envoy ## tests that need no privileges, with the race detector
	@go test -race -timeout 15m ./xds $$(go list ./... | grep -vxFf <(go list $(PRIVILEGED) $(NODE))) # xds takes the longest: it goes first
	@go -C install/render test ./... $(QUIET)

.PHONY: privileged
privileged: setup envoy build ## tests on the real kernel and the real Envoy, as root
	@go list -race -test -deps -export $(PRIVILEGED) $(NODE) >/dev/null # compiles in parallel, which go test -p 1 does not
	@go build -race -o build/weft-race ./cmd/weft
	@WEFT_BINARY=$(CURDIR)/bin/weft WEFT_RACE_BINARY=$(CURDIR)/build/weft-race \
		go test -race -vet=off -p 1 -count 1 -timeout 25m $(PRIVILEGED) $(NODE) # lint has vetted

.PHONY: node
node: setup envoy build ## what the demo does not measure, on a whole real node; as root
	@go test -race -p 1 -count 1 -timeout 20m $(NODE)

.PHONY: node-hbone
node-hbone: setup envoy build ## parts of the whole node whose authenticated bytes go by HBONE, more than make test; as root
	@WEFT_TEST_LONG=1 go test -race -p 1 -count 1 -timeout 20m -run TestNodeHBONE ./test/node

.PHONY: explain
explain: setup envoy build ## weft explain against the data plane of a node: 1,200 connections and requests under random policies, modes and routes; as root
	@WEFT_TEST_LONG=1 go test -p 1 -count 1 -timeout 10m -v -run 'TestNode$$/Explain' ./test/node

.PHONY: attack
attack: setup envoy build ## attacks on a node as an outsider, a tenant and another node, with what a neighbour notices; as root; some 25 minutes
	@WEFT_TEST_LONG=1 go test -p 1 -count 1 -timeout 30m -v $(ARGS) ./test/attack

.PHONY: soak
soak: setup envoy build ## 20 minutes of load on authenticated connections, with restarts; as root; ARGS="-span 1h"
	@go run ./test/soak $(ARGS)

.PHONY: traces
traces: setup envoy ## spans of Envoy, and exported flows, by way of a real OpenTelemetry collector; as root
	@CGO_ENABLED=0 GOFLAGS= go build -C test/traces -trimpath -o $(CURDIR)/$(TOOLS)/otel-collector . $(QUIET)
	@OTEL_COLLECTOR=$(CURDIR)/$(TOOLS)/otel-collector go test -race -count 1 -v -run 'TestTraces|TestOTLP|TestCollectorIsNotTrusted' ./xds ./internal/flowexport

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s) each
	@install/fuzz.sh $${FUZZTIME:-10s}

.PHONY: golden
golden: envoy ## refresh golden files; read the diff
	@go test ./gateway ./xds ./internal/agent ./internal/analyze ./internal/cli -update

.PHONY: generate
generate: ## eBPF objects and deep copies; needs clang 19
	@go generate ./...

.PHONY: images
images: ## container images for amd64 and arm64 in build/images; ARGS="-arch amd64" for fewer
	@go run ./install/images $(ARGS) $(QUIET)

.PHONY: install-manifest
install-manifest: ## refresh what is rendered: install/*.yaml from the chart, and the dashboards of the chart
	@go -C install/render run . -write $(QUIET)
	@go -C install/render run ./dashboards

.PHONY: alerts
alerts: ## the chart's alerts in promtool, each against series that are well and series that are not
	@install/setup.sh promtool
	@promtool test rules install/rules/weft_test.yaml

.PHONY: lint
lint: setup $(TOOLS)/golangci-lint-$(GOLANGCI_LINT) ## formatting, vet, import rules
	@$(TOOLS)/golangci-lint-$(GOLANGCI_LINT) run ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	@echo "building golangci-lint $(GOLANGCI_LINT) (takes minutes, once)"
	@GOBIN=$(CURDIR)/$(TOOLS) GOFLAGS= CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT) $(QUIET)
	@mv $(TOOLS)/golangci-lint $@

.PHONY: bench
bench: setup build envoy ## one run, ratios side by side; writes build/bench.json
	@go run ./test/bench $(ARGS)

.PHONY: cluster
cluster: ## a real Kubernetes of two nodes in network namespaces, with Weft, as root; a cold build takes 20 minutes; ARGS=-bare
	@install/setup-cluster.sh
	@go run ./test/cluster/cmd up $(ARGS)

.PHONY: cluster-install
cluster-install: ## Weft as it is now on the cluster that is up
	@go run ./test/cluster/cmd install

.PHONY: cluster-down
cluster-down: ## takes the cluster away
	@go run ./test/cluster/cmd down

.PHONY: cluster-test
cluster-test: ## tests on a real API server, and the cluster's own, while no cluster is up; as root
	@install/setup-cluster.sh
	@go test -tags cluster -p 1 -count 1 -timeout 60m ./internal/announce ./internal/controller ./test/cluster/...

# Left out of CI: they measure, and take minutes. make e2e runs all.
E2E_SCALE := ^TestManyObjects|^TestTimeToFirstAnswer

.PHONY: cluster-ci
cluster-ci: ## what CI runs on a cluster: cluster-test, then e2e and conformance on one that is taken away afterwards
	@$(MAKE) --no-print-directory alerts cluster-down cluster-test
	@trap '$(MAKE) --no-print-directory cluster-down' EXIT; \
	$(MAKE) --no-print-directory cluster; \
	$(MAKE) --no-print-directory e2e ARGS="-skip='$(E2E_SCALE)'"; \
	$(MAKE) --no-print-directory conformance

.PHONY: e2e
e2e: ## the examples and faults on the cluster that is up, else on one of its own, as root; ARGS=-run=NAME
	@install/setup-cluster.sh
	@go test -tags cluster -count 1 -timeout 40m -v $(ARGS) ./test/e2e

.PHONY: conformance
conformance: ## the official Gateway API suite on a cluster, started if none is up; ARGS="-run /HTTPRouteWeight"; results in build/
	@go run ./test/cluster/cmd status >/dev/null 2>&1 || $(MAKE) cluster
	@mkdir -p build && rm -f build/conformance*
	@echo "takes minutes; to see it go: tail -f build/conformance.log"
	@export KUBECONFIG=$$(go run ./test/cluster/cmd kubeconfig); \
	go test -C test/conformance -count 1 -timeout 60m -v . $(ARGS) -args -version $(VERSION) \
		-table-output $(CURDIR)/build/conformance.txt -report-output $(CURDIR)/build/conformance-report.yaml \
		>build/conformance.log 2>&1 || failed=1; \
	cat build/conformance.txt 2>/dev/null || tail -20 build/conformance.log; exit $${failed:-0}

.PHONY: clean
clean: ## removes what was built
	@rm -rf bin build
