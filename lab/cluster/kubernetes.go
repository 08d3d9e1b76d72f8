package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Kubernetes builds the programs of Kubernetes alone, unless the cache has them, and returns their folder. It holds etcd, kube-apiserver and kubectl under
// these names: what controller-runtime's envtest looks for.
func Kubernetes(ctx context.Context, c BuildConfig) (string, error) { return parts()[0].only(ctx, c) }

// Kwok builds kwok unless the cache has it, and returns its path. It plays the kubelets of nodes that are objects only; no cluster of this package needs it.
func Kwok(ctx context.Context, c BuildConfig) (string, error) {
	folder, err := kwok().only(ctx, c)
	return programs{"kwok": folder}.path("kwok", "kwok"), err
}

func kwok() part {
	return part{
		name: "kwok", source: "test/cluster/kwok", packages: []string{"sigs.k8s.io/kwok/cmd/kwok"},
		programs: []string{"kwok"}, patience: "2 minutes",
	}
}

// only builds a part without the others.
func (p part) only(ctx context.Context, c BuildConfig) (string, error) {
	c, err := c.withDefaults()
	if err != nil {
		return "", err
	}
	return p.build(ctx, c)
}

// CertManager builds cert-manager's controllers unless the cache has them, and returns the program and the folder of its CRDs, which are those of
// the very module that it was built from. No cluster of this package needs it.
func CertManager(ctx context.Context, c BuildConfig) (program, crds string, err error) {
	if c, err = c.withDefaults(); err != nil {
		return "", "", err
	}
	p := certManager()
	folder, err := p.build(ctx, c)
	if err != nil {
		return "", "", fmt.Errorf("build %s: %w", p.name, err)
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", certManagerModule)
	cmd.Dir = filepath.Join(c.Checkout, p.source)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil {
		return "", "", fmt.Errorf("find the source of %s: %w", certManagerModule, err)
	}
	return programs{p.name: folder}.path(p.name, p.name), filepath.Join(module.Dir, "deploy", "crds"), nil
}

const certManagerModule = "github.com/cert-manager/cert-manager"

func certManager() part {
	return part{name: "certmanager", source: "test/cluster/certmanager", packages: []string{"."}, programs: []string{"certmanager"}, patience: "3 minutes"}
}
