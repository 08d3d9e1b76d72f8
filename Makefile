# Two commands are all that a newcomer needs: make demo, make test. YES=1 installs missing Debian packages without asking.
GO        ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.1
BUILD      = build
PROGRAMS   = assay assay-agent assay-labinit
IMAGES     = assay assay-agent assay-operator assay-swtpm
SHIPPED    = assay assay-agent assay-operator
LDFLAGS    = -s -w
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
MKIMAGES   = $(GO) run ./deploy/images/mkimages
export CGO_ENABLED = 0

.PHONY: all build programs images publish helm deploy cluster-parts demo outside run verify e2e test lint bench fuzz vuln packages-demo packages-test clean realclean

all: programs

# What demonstration and tests run on this machine.
programs:
	@mkdir -p $(BUILD)
	@for p in $(PROGRAMS); do $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/$$p ./cmd/$$p || exit 1; done

# Programs for all architectures and the images of them, build/images/NAME.tar: OCI layouts, the same bytes from the same commit.
# IMAGES="assay assay-agent" builds only these; assay-swtpm is made of Debian packages, which apt fetches.
build: programs images

images:
	@for arch in amd64 arm64; do for p in $(filter $(SHIPPED),$(IMAGES)); do \
		GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/linux/$$arch/$$p ./cmd/$$p || exit 1; done; done
	@$(MKIMAGES) build --programs $(BUILD)/linux --out $(BUILD)/images --version '$(VERSION)' $(IMAGES)

# make publish REGISTRY=registry.example/assay TAG=v1 pushes what make build made.
publish:
	@$(MKIMAGES) push --in $(BUILD)/images --registry '$(REGISTRY)' --tag '$(TAG)' $(IMAGES)

# Helm as test/helm pins it, for machines without one.
helm:
	@cd test/helm && $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o ../../$(BUILD)/helm helm.sh/helm/v4/cmd/helm

# make deploy REGISTRY=registry.example/assay TAG=v1 installs the chart, or upgrades it, in the cluster of the current kubeconfig.
# HELMARGS="--values FILE" adds to it; HELM names another helm than the one in PATH.
HELM      ?= $(or $(shell command -v helm 2>/dev/null),$(BUILD)/helm)
deploy:
	@test -n '$(REGISTRY)' || { echo 'REGISTRY is empty: give what make publish got, as in make deploy REGISTRY=registry.example/assay TAG=v1' >&2; exit 2; }
	@test -n '$(TAG)' || { echo 'TAG is empty: give what make publish got, as in make deploy REGISTRY=registry.example/assay TAG=v1' >&2; exit 2; }
	@test '$(HELM)' != '$(BUILD)/helm' || $(MAKE) --no-print-directory helm
	@$(HELM) upgrade --install assay deploy/chart --namespace assay-system --create-namespace --set images.registry='$(REGISTRY)' --set images.tag='$(TAG)' $(HELMARGS)

# What tests in clusters need beside programs: Kubernetes, built once and kept, the images, and Helm.
cluster-parts:
	@$(GO) run ./cmd/assay lab cluster build
	@$(MAKE) --no-print-directory images helm

# The whole path on one machine: a lab machine is attested, tampered with, caught, restored and rebooted. ARGS="--keep" leaves it running.
demo: packages-demo programs
	@$(BUILD)/assay demo $(ARGS)

# A control plane outside of a cluster, on this machine and as root: run starts both and leaves them running, verify checks them, e2e is run, verify
# and the end of it all, also after a failure. clean ends what runs.
outside:
	@mkdir -p $(BUILD)
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/outside ./test/outside
run: packages-test programs cluster-parts outside
	@$(BUILD)/outside run
verify: outside
	@$(BUILD)/outside verify
e2e: packages-test programs cluster-parts outside
	@$(BUILD)/outside e2e

# Every tier: lint, unit (with the race detector), integration, lab, cluster, and a short round of fuzzing. The first run builds Kubernetes.
test: packages-test programs lint
	@CGO_ENABLED=1 $(GO) run ./test/tiers -fuzz $(or $(FUZZTIME),3m) $(TIERS)

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt: the files above are not formatted" >&2; exit 1; }
	@$(GO) vet ./...
	@$(GO) run $(STATICCHECK) ./...

bench: programs
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

# Everything that was built, and what make run left running. realclean takes what is kept in the user's cache folder too, unless others' machines run there.
clean:
	@test ! -d "$${XDG_CACHE_HOME:-$$HOME/.cache}/assay/outside" || $(GO) run ./test/outside clean
	@rm -rf $(BUILD)
realclean:
	@$(GO) run ./test/outside realclean
	@rm -rf $(BUILD)
