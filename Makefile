# `make` lists the targets.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X main.version=$(VERSION)

.PHONY: help build run test race check bench fuzz soak h2spec crs docs clean

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

build: ## build bin/whygate
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/whygate ./cmd/whygate

run: build ## start the gateway in front of a sample shop, show a call pass, one refused, and why
	@exec bin/whygate demo examples/shop --data .run

test: ## run all tests, with the race detector where there is a C compiler
	@if command -v gcc >/dev/null || command -v clang >/dev/null; then \
		CGO_ENABLED=1 $(GO) test -race ./...; \
	else \
		echo "no C compiler: without the race detector"; $(GO) test ./...; \
	fi

check: ## gofmt, vet, staticcheck, and that go.mod is tidy
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$fmt" ]; then echo "gofmt -w $$fmt"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod staticcheck ./...
	$(GO) mod tidy -diff

bench: build ## measure side by side with nginx, HAProxy and Go's ReverseProxy (installs what is missing, and says so); requests per diagnosis; time of an offline verdict
	$(GO) run ./bench
	$(GO) test ./pinpoint/rig -run '^$$' -bench Requests -benchtime 1x
	$(GO) test ./pinpoint/rig -run '^$$' -bench Offline

FUZZTIME ?= 60s
fuzz: ## run every fuzz target for FUZZTIME (60s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg; \
		done; \
	done

SOAK ?= 10m
soak: ## drive a node for SOAK (10m) with calls of all kinds while it reloads; nothing may fail, leak or go unrecorded
	WHYGATE_SOAK=$(SOAK) $(GO) test ./cmd/whygate -run TestSoak -count=1 -timeout 0 -v

h2spec: ## run the HTTP/2 conformance suite (some minutes; builds h2spec from source)
	WHYGATE_H2SPEC=1 $(GO) test ./gateway -run TestH2Spec -count=1 -v

crs: ## run all regression tests of the OWASP Core Rule Set against a node (a minute)
	WHYGATE_CRS=1 $(GO) test ./gateway -run TestCoreRuleSet -count=1 -v

docs: ## write docs/reference from the code
	$(GO) test ./cmd/whygate -run TestReference -update
	$(GO) test ./pinpoint -run 'TestReference|TestData' -update

clean: ## remove what was built and what make run left
	rm -rf bin .run
