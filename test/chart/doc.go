// Package chart runs Helm on the chart of deploy/chart, as a person does: the real program, at the version that test/helm pins. Its tests say
// what the chart refuses, what it renders, and what a real API server says to that. It trusts Helm; installing, upgrading and uninstalling
// are told by the tests of a whole cluster.
package chart

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Program builds Helm unless it is built, and returns its path. The first time takes several minutes. root is the checkout's folder.
func Program(ctx context.Context, root string) (string, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	program := filepath.Join(root, "build", "helm")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "helm.sh/helm/v4/cmd/helm")
	cmd.Dir = filepath.Join(root, "test", "helm")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm: %w: %s", err, out)
	}
	return program, nil
}
