package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// kubernetesVersion is what the components say they are; a test holds it to test/cluster/hyperkube/go.mod.
const kubernetesVersion = "v1.36.3"

// ErrNoCheckout says that the programs are not built yet and that there is no source to build them from.
var ErrNoCheckout = errors.New("building Kubernetes needs a checkout of the repository: run this inside one")

// A part is a set of programs that are built together.
type part struct {
	name     string
	source   string   // folder below the checkout: its Go files, go.mod and go.sum are what the build depends on
	module   string   // folder of the module in which go build runs; source by default
	packages []string // what go build is given
	ldflags  string
	programs []string // what must come out
	links    []string // names of the first program
	patience string   // how long the first build takes, for people
}

func parts() []part {
	const containerd = "github.com/containerd/containerd/v2/cmd/"
	return []part{
		{
			name: "hyperkube", source: "test/cluster/hyperkube", packages: []string{"."}, ldflags: kubernetesFlags(), programs: []string{"hyperkube"},
			links: []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"}, patience: "6 to 12 minutes",
		},
		{
			name: "containerd", source: "test/cluster/containerd", packages: []string{containerd + "containerd", containerd + "containerd-shim-runc-v2", containerd + "ctr"},
			programs: []string{"containerd", "containerd-shim-runc-v2", "ctr"}, patience: "2 minutes",
		},
		{name: "coredns", source: "test/cluster/coredns", packages: []string{"."}, programs: []string{"coredns"}, patience: "2 minutes"},
		{name: "pause", source: "lab/cluster/pause", module: ".", packages: []string{"./lab/cluster/pause"}, programs: []string{"pause"}, patience: "some seconds"},
	}
}

// kubernetesFlags make the components tell their version: kubelet and API server compare theirs.
func kubernetesFlags() string {
	minor := strings.Split(kubernetesVersion, ".")[1]
	var flags string
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %s.gitVersion=%s -X %[1]s.gitMajor=1 -X %[1]s.gitMinor=%[3]s -X %[1]s.gitTreeState=clean", pkg, kubernetesVersion, minor)
	}
	return flags
}

// programs says where the built programs lie: a folder for each part.
type programs map[string]string

func (p programs) path(part, program string) string { return filepath.Join(p[part], program) }

// BuildConfig says where programs are built from and kept.
type BuildConfig struct {
	// Checkout is the root of the repository; by default the one around the working folder. It is not needed once everything is built, but tells what
	// to build.
	Checkout string
	// Cache is the folder that keeps what was built, by content; "cluster" beside the lab's machines by default.
	Cache string
	// Progress is told what is being done, for people; may be nil.
	Progress func(string)
}

func (c BuildConfig) withDefaults() (BuildConfig, error) {
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	var err error
	if c.Checkout == "" {
		if c.Checkout, err = findCheckout(); err != nil {
			return c, err
		}
	}
	if c.Cache == "" {
		c.Cache, err = cacheFolder()
	}
	return c, err
}

// Build makes the programs of a cluster unless the cache has them: Kubernetes with etcd, containerd, CoreDNS, and what tests run in clusters: kwok and
// cert-manager. The first time takes 15 minutes on two cores and 4 GiB of Go's own caches. Two builds at the same time wait for each other.
func Build(ctx context.Context, c BuildConfig) error {
	if _, err := build(ctx, c); err != nil {
		return err
	}
	for _, p := range []part{kwok(), certManager()} {
		if _, err := p.only(ctx, c); err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
	}
	return nil
}

func build(ctx context.Context, c BuildConfig) (programs, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	built := programs{}
	for _, p := range parts() {
		folder, err := p.build(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("build %s: %w", p.name, err)
		}
		built[p.name] = folder
	}
	return built, nil
}

// findCheckout looks for the repository around the working folder.
func findCheckout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, parts()[0].source, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNoCheckout
		}
	}
}

// build returns the folder of the part's programs.
func (p part) build(ctx context.Context, c BuildConfig) (string, error) {
	key, err := p.key(ctx, c.Checkout)
	if err != nil {
		return "", err
	}
	folder := filepath.Join(c.Cache, p.name+"-"+key)
	if p.complete(folder) {
		return folder, nil
	}
	release, err := leash.Lock(ctx, filepath.Join(c.Cache, p.name+".lock"))
	if err != nil {
		return "", err
	}
	defer release()
	if p.complete(folder) {
		return folder, nil
	}
	c.Progress(fmt.Sprintf("building %s, once (about %s)", p.name, p.patience))
	work, err := os.MkdirTemp(c.Cache, "."+p.name+"-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := p.compile(ctx, c, work); err != nil {
		return "", err
	}
	for _, link := range p.links {
		if err := os.Symlink(p.programs[0], filepath.Join(work, link)); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return "", err
	}
	return folder, os.Rename(work, folder)
}

// complete reports whether a folder holds the part. Folders appear whole or not at all.
func (p part) complete(folder string) bool {
	_, err := os.Stat(filepath.Join(folder, p.programs[0]))
	return err == nil
}

// key is a digest of everything that the result depends on.
func (p part) key(ctx context.Context, checkout string) (string, error) {
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", fmt.Errorf("ask Go for its version: %w", err)
	}
	h := sha256.New()
	fmt.Fprintln(h, strings.TrimSpace(string(version)), runtime.GOOS, runtime.GOARCH, p.arguments(""))
	entries, err := os.ReadDir(filepath.Join(checkout, p.source))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoCheckout, err)
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasSuffix(name, ".go") || name == "go.mod" || name == "go.sum" {
			data, err := os.ReadFile(filepath.Join(checkout, p.source, name))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(data))
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

func (p part) arguments(out string) []string {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", "-s -w" + p.ldflags, "-o", out + "/"}
	return append(args, p.packages...)
}

// compile runs the Go compiler with low priority, and says now and then that it still does.
func (p part) compile(ctx context.Context, c BuildConfig, out string) error {
	module := p.module
	if module == "" {
		module = p.source
	}
	cmd := exec.CommandContext(ctx, "nice", slices.Concat([]string{"-n", "10", "go"}, p.arguments(out))...)
	cmd.Dir = filepath.Join(c.Checkout, module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	began := time.Now()
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Run() }()
	for {
		select {
		case <-tick.C:
			c.Progress(fmt.Sprintf("building %s since %v", p.name, time.Since(began).Round(time.Second)))
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("go build: %w: %s", err, host.LastLines(stderr.String(), 10))
			}
			c.Progress(fmt.Sprintf("built %s in %v", p.name, time.Since(began).Round(time.Second)))
			return nil
		}
	}
}
