# Two commands are all that a newcomer needs: make demo, make test. YES=1 installs missing Debian packages without asking.
GO        ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
BUILD      = build
PROGRAMS   = assay assay-agent assay-labinit
LDFLAGS    = -s -w
export CGO_ENABLED = 0

.PHONY: all build demo test lint bench fuzz vuln packages-demo packages-test clean

all: build

build:
	@mkdir -p $(BUILD)
	@for p in $(PROGRAMS); do $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/$$p ./cmd/$$p || exit 1; done

# The whole path on one machine: a lab machine is attested, tampered with, caught, restored and rebooted. ARGS="--keep" leaves it running.
demo: packages-demo build
	@$(BUILD)/assay demo $(ARGS)

# Every tier: lint, unit (with the race detector), integration, lab, and a short round of fuzzing.
test: packages-test build lint
	@CGO_ENABLED=1 $(GO) run ./test/tiers -fuzz $(or $(FUZZTIME),3m) $(TIERS)

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt: the files above are not formatted" >&2; exit 1; }
	@$(GO) vet ./...
	@$(GO) run $(STATICCHECK) ./...

bench: build
	@$(GO) run ./test/bench

fuzz:
	@CGO_ENABLED=1 $(GO) run ./test/tiers -fuzz $(or $(FUZZTIME),30m) none

# Needs the network's vulnerability database.
vuln:
	@$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.8.0 ./...

packages-demo:
	@./test/packages demo
packages-test:
	@./test/packages test

clean:
	@rm -rf $(BUILD)
