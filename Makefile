# make demo and make test work on a machine that has nothing installed: scripts/deps.sh gets what is missing.
SHELL := /bin/bash
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/banger
# A Go that is older than go.mod asks for fetches that version.
export GOTOOLCHAIN := auto
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go-1.24/bin:/usr/lib/go-1.23/bin
GO ?= go
AGENT := internal/guest/embedded/banger-guest
FUZZTIME ?= 30s

.PHONY: build demo test long soak lint fuzz bench docs clean

build: ## bin/banger, with the guest agent inside it
	@scripts/deps.sh build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $(AGENT) ./cmd/banger-guest
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/banger ./cmd/banger

demo: ## pull a real Debian from a real registry and boot it
	@scripts/deps.sh build demo
	@$(MAKE) --no-print-directory build
	@CACHE="$(CACHE)" scripts/demo.sh

test: ## everything, boots included
	@scripts/deps.sh build test
	@$(MAKE) --no-print-directory build
	@CACHE="$(CACHE)" scripts/test.sh

long: build ## the tests of file systems that take minutes: a million names, tens of thousands of random trees and layers, 16 TiB
	@scripts/deps.sh test
	BANGER_TEST_LONG=1 BANGER_TEST_E2FSCK="$$(scripts/e2fsprogs.sh "$(CACHE)/test/e2fsprogs")" \
	  PATH="$(PATH):/usr/sbin:/sbin" $(GO) test -count=1 -timeout 120m ./internal/imagepull ./internal/rootfs

lint: ## golangci-lint (with staticcheck), shellcheck, govulncheck
	@scripts/lint.sh

fuzz: build ## each fuzz target for FUZZTIME
	@FUZZTIME=$(FUZZTIME) scripts/fuzz.sh

bench: build ## the benchmarks of docs/benchmarks.md
	@CACHE="$(CACHE)" scripts/bench.sh

soak: build ## 100 boots in a row
	@CACHE="$(CACHE)" BANGER_SOAK=$(or $(BANGER_SOAK),100) scripts/soak.sh

docs: build ## write the generated parts of docs/
	$(GO) test ./cmd/banger -run TestReference -update

clean:
	rm -rf bin $(AGENT)
