package chart

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	os.Exit(m.Run())
}

// server makes a cluster of one node, with the chart's CRDs and its namespace.
func server(ctx context.Context, t *testing.T) *cluster.Cluster {
	t.Helper()
	need.Cluster(t)
	release, err := lab.Exclusive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
	dir, err := os.MkdirTemp("", "c-")
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Up(ctx, cluster.Config{Dir: dir, Progress: func(text string) { t.Log(text) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	kubectl(ctx, t, c, "create", "namespace", "assay-system")
	kubectl(ctx, t, c, "apply", "--server-side", "--validate=strict", "-f", filepath.Join(folder, "crds"))
	kubectl(ctx, t, c, "wait", "--for=condition=Established", "--timeout=60s", "-f", filepath.Join(folder, "crds"))
	return c
}

func kubectl(ctx context.Context, t *testing.T, c *cluster.Cluster, arguments ...string) string {
	t.Helper()
	out, err := c.Kubectl(ctx, arguments...)
	if err != nil {
		t.Fatalf("kubectl %s: %v", strings.Join(arguments, " "), err)
	}
	return out
}

// manifest writes what a variant renders to a file.
func manifest(t *testing.T, rendered string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(rendered), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestServerSide asks a real API server what it makes of each variant: the manifests, and the AttestationPlatform that the operator will make of
// their values.
func TestServerSide(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	c := server(ctx, t)
	dryRun := []string{"apply", "--server-side", "--dry-run=server", "--validate=strict", "-f"}
	for _, v := range variants() {
		if v.name == "openshift" {
			kubectl(ctx, t, c, "apply", "--server-side", "--validate=strict", "-f", filepath.Join("testdata", "scc-crd.yaml"))
			kubectl(ctx, t, c, "wait", "--for=condition=Established", "--timeout=60s", "-f", filepath.Join("testdata", "scc-crd.yaml"))
		}
		rendered := v.render(t)
		out := kubectl(ctx, t, c, append(dryRun, manifest(t, rendered))...)
		if !strings.Contains(out, "deployment.apps/assay-operator serverside-applied (server dry run)") {
			t.Errorf("%s: %s", v.name, out)
		}
		kubectl(ctx, t, c, append(dryRun, manifest(t, platform(t, rendered)))...)
	}
	// The same with one fault: the server, and not only this test's eye, tells them apart.
	wrong := strings.Replace(platform(t, variants()[0].render(t)), "form: Hardened", "form: Soft", 1)
	if out, err := c.Kubectl(ctx, append(dryRun, manifest(t, wrong))...); err == nil || !strings.Contains(err.Error()+out, `Unsupported value: "Soft"`) {
		t.Errorf("a wrong platform: %v %s", err, out)
	}
	discovered(ctx, t, c)
	grants(ctx, t, c)
}

// grants asks the API server's own authorizer what the operator may do. Each refusal has a grant beside it that differs in one word.
func grants(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	kubectl(ctx, t, c, "apply", "--server-side", "-f", manifest(t, variants()[0].render(t)), "--selector", "app.kubernetes.io/part-of=assay")
	const own, all = "--namespace=assay-system", "--all-namespaces"
	tests := []struct {
		question string
		want     string
	}{
		{"patch nodes " + all, "yes"}, {"delete nodes " + all, "no"}, {"patch nodes --subresource=status " + all, "no"},
		{"list nodepolicies " + all, "yes"}, {"patch nodepolicies " + all, "no"}, {"patch nodepolicies --subresource=status " + all, "yes"},
		{"create nodereports " + all, "yes"}, {"delete nodereports " + all, "no"},
		{"patch crd/nodereports.integrity.assay.dev " + all, "yes"}, {"patch crd/others.example " + all, "no"}, {"delete crd/nodereports.integrity.assay.dev " + all, "no"},
		{"get secrets " + own, "yes"}, {"get secrets --namespace=kube-system", "no"},
		{"patch deployments/assay-operator " + own, "yes"}, {"patch deployments/other " + own, "no"},
		{"list pods " + own, "yes"}, {"get persistentvolumeclaims " + own, "yes"}, {"list events " + own, "yes"}, {"list events --namespace=default", "no"}, {"create pods " + own, "no"}, {"create pods --subresource=exec " + own, "no"}, {"list pods --namespace=default", "no"},
		{"update leases/assay-operator " + own, "yes"}, {"update leases/other " + own, "no"},
		{"create tokenreviews " + all, "yes"}, {"create serviceaccounts --subresource=token " + own, "no"},
		{"delete statefulsets " + own, "yes"}, {"delete persistentvolumeclaims " + own, "no"}, {"create clusterrolebindings " + all, "no"},
	}
	for _, test := range tests {
		arguments := append([]string{"auth", "can-i", "--as=system:serviceaccount:assay-system:assay-operator"}, strings.Fields(test.question)...)
		out, err := c.Kubectl(ctx, arguments...) // "no" is an exit status too
		if got := strings.TrimSpace(out); got != test.want {
			t.Errorf("may the operator %s: %q, want %q (%v)", test.question, got, test.want, err)
		}
	}
}

// discovered installs with helm's own dry run: it asks this server which APIs there are, OpenShift's among them now.
func discovered(ctx context.Context, t *testing.T, c *cluster.Cluster) {
	t.Helper()
	out, text, err := helm(t, "install", "assay", folder, "--kubeconfig", c.KubeconfigPath(), "--namespace", "assay-system", "--set", "images.registry=registry.example/assay", "--dry-run=server")
	if err != nil || strings.Count(out, "kind: SecurityContextConstraints") != 3 {
		t.Errorf("helm install --dry-run=server: %v\n%s%s", err, text, out)
	}
	kubectl(ctx, t, c, "delete", "crd", "securitycontextconstraints.security.openshift.io")
	out, text, err = helm(t, "install", "assay", folder, "--kubeconfig", c.KubeconfigPath(), "--namespace", "assay-system", "--set", "images.registry=registry.example/assay", "--dry-run=server")
	if err != nil || strings.Contains(out, "SecurityContextConstraints") {
		t.Errorf("without OpenShift's API: %v\n%s%s", err, text, out)
	}
}

// platform is the AttestationPlatform of the rendered values.
func platform(t *testing.T, rendered string) string {
	t.Helper()
	for _, o := range objects(t, rendered) {
		if o.Kind == "ConfigMap" && o.Metadata.Name == "assay-values" {
			spec := strings.ReplaceAll("\n"+strings.TrimSpace(o.Data["spec.yaml"]), "\n", "\n  ")
			return "apiVersion: integrity.assay.dev/v1alpha1\nkind: AttestationPlatform\nmetadata: {name: cluster}\nspec:" + spec + "\n"
		}
	}
	t.Fatal("no ConfigMap assay-values")
	return ""
}
