package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/lab/host"
)

const (
	namespace = "assay-system"
	reports   = "/apis/integrity.assay.dev/v1alpha1/nodereports/"
	// patience bounds each wait.
	patience = 4 * time.Minute
)

// nodeNames are the two nodes of the cluster.
func nodeNames() []string { return []string{"node1", "node2"} }

// errNothingRuns says that run has not been run, or that it has ended since.
var errNothingRuns = errors.New("nothing runs: `make run` first")

// world is what run has made and verify looks at.
type world struct {
	*place
	cluster *cluster.Cluster
	machine machine
}

// findWorld finds what an earlier run made.
func findWorld(ctx context.Context, p *place) (*world, error) {
	c, err := cluster.Attach(p.clusterDir())
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errNothingRuns, err)
	}
	if err := c.Running(ctx); err != nil {
		return nil, fmt.Errorf("%w (%w)", errNothingRuns, err)
	}
	m, err := findMachine(ctx, p.machineDir())
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", errNothingRuns, err)
	}
	return &world{place: p, cluster: c, machine: m}, nil
}

// addresses of the nodes by name.
func (w *world) addresses() map[string]string {
	all := map[string]string{}
	for _, n := range w.cluster.Nodes() {
		all[n.Name()] = n.Address()
	}
	return all
}

// assay runs the command line program on the machine, as the server's administrator, and decodes what it prints as JSON into v unless that is nil.
func (w *world) assay(ctx context.Context, v any, args ...string) (string, error) {
	if v != nil {
		args = append(args, "--output", "json")
	}
	cmd := w.machine.command(ctx, append([]string{filepath.Join(w.build, "assay")}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+w.home(), "XDG_CONFIG_HOME="+w.home())
	out, err := host.RunTool(cmd)
	if err != nil || v == nil {
		return out, err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return out, fmt.Errorf("assay %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// helm runs Helm on the cluster.
func (w *world) helm(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(w.build, "helm"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.KubeconfigPath(), "HELM_CACHE_HOME="+w.home(), "HELM_CONFIG_HOME="+w.home(), "HELM_DATA_HOME="+w.home())
	_, err := host.RunTool(cmd)
	return err
}

// report reads a node's NodeReport; an empty one while there is none.
func (w *world) report(ctx context.Context, node string) (v1alpha1.NodeReport, error) {
	var r v1alpha1.NodeReport
	err := w.cluster.Get(ctx, reports+node, &r)
	if errors.Is(err, cluster.ErrNotFound) {
		return r, nil
	}
	return r, err
}

// nodes are the server's nodes by the names that they have in the cluster.
func (w *world) nodes(ctx context.Context) (map[string]api.Node, error) {
	var list []api.Node
	if _, err := w.assay(ctx, &list, "node", "list"); err != nil {
		return nil, err
	}
	found := map[string]api.Node{}
	for _, n := range list {
		if n.KubernetesNode != nil {
			found[n.KubernetesNode.Name] = n
		}
	}
	return found, nil
}

// await waits until nothing is missing in any of the two reports.
func (w *world) await(ctx context.Context, what string, missing func(v1alpha1.NodeReport) string) error {
	return w.eventually(ctx, what, func(ctx context.Context) error {
		for _, name := range nodeNames() {
			r, err := w.report(ctx, name)
			if err != nil {
				return err
			}
			if lacking := missing(r); lacking != "" {
				return fmt.Errorf("%s: %s: %s", name, lacking, summary(r))
			}
		}
		return nil
	})
}

// eventually repeats a question until it has no error, and tells when.
func (w *world) eventually(ctx context.Context, what string, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := question(ctx)
		if err == nil {
			w.tell("%s", what)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, ctx.Err(), err)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// summary is a report in one line.
func summary(r v1alpha1.NodeReport) string {
	words := []string{fmt.Sprintf("verdict %q under %q", r.Status.Verdict, r.Status.Policy)}
	for _, c := range r.Status.Conditions {
		words = append(words, fmt.Sprintf("%s=%s (%s: %s)", c.Type, c.Status, c.Reason, c.Message))
	}
	for _, f := range r.Status.Failures {
		words = append(words, f.ID+" "+f.Detail)
	}
	return strings.Join(words, "; ")
}

// trusted is the reason of the condition Trusted, and whether it holds.
func trusted(r v1alpha1.NodeReport) (reason string, ok bool) {
	for _, c := range r.Status.Conditions {
		if c.Type == v1alpha1.ConditionTrusted {
			return c.Reason, string(c.Status) == "True"
		}
	}
	return "", false
}

// images are the archives of the build and the tag that they bear.
func (p *place) images() (archives []string, tag string, err error) {
	for _, name := range []string{"assay-agent", "assay-operator", "assay-swtpm"} {
		archive := filepath.Join(p.build, "images", name+".tar")
		if tag, err = imageTag(archive); err != nil {
			return nil, "", fmt.Errorf("image %s: %w; `make build` makes it", name, err)
		}
		archives = append(archives, archive)
	}
	return archives, tag, nil
}

// maxIndexBytes bounds the index of an image.
const maxIndexBytes = 1 << 20

// imageTag reads the tag of an OCI layout in a tar archive.
func imageTag(archive string) (string, error) {
	f, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("%s: find index.json: %w", archive, err)
		}
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Annotations map[string]string }
		}
		if err := json.NewDecoder(io.LimitReader(r, maxIndexBytes)).Decode(&index); err != nil {
			return "", fmt.Errorf("%s: index.json: %w", archive, err)
		}
		if len(index.Manifests) == 0 || index.Manifests[0].Annotations["org.opencontainers.image.ref.name"] == "" {
			return "", fmt.Errorf("%s: index.json names no image", archive)
		}
		return index.Manifests[0].Annotations["org.opencontainers.image.ref.name"], nil
	}
}
