package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"
)

// inNFD runs a command of Go in the module that pins Node Feature Discovery.
func inNFD(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = filepath.Join("..", "nfd")
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	if err := cmd.Run(); err != nil {
		t.Fatalf("go %v: %v: %s%s", args, err, text.String(), out.String())
	}
	return strings.TrimSpace(out.String())
}

// TestNodeFeatureRule: the API server takes our rule under Node Feature Discovery's own CRD, with nothing unknown in it, and its own engine makes the label that
// we say.
func TestNodeFeatureRule(t *testing.T) {
	config, c := newAPIServer(t)
	inNFD(t, "mod", "download", "sigs.k8s.io/node-feature-discovery")
	module := inNFD(t, "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/node-feature-discovery")
	crds, err := envtest.InstallCRDs(config, envtest.CRDInstallOptions{Paths: []string{filepath.Join(module, "deployment", "base", "nfd-crds", "nfd-api-crds.yaml")}})
	if err != nil || len(crds) == 0 {
		t.Fatalf("%d CRDs of Node Feature Discovery: %v", len(crds), err)
	}
	text, err := os.ReadFile("../../deploy/nfd/tpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	strict := kube.WithFieldValidation(c, "Strict")
	create := func(text string) error {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
			t.Fatal(err)
		}
		return strict.Create(t.Context(), object, kube.DryRunAll)
	}
	if err := create(string(text)); err != nil {
		t.Errorf("our rule: %v", err)
	}
	for fault, want := range map[string]string{"op: Exists": "op: Is", "matchAny:": "matchSome:", "feature: kernel": "featur: kernel"} {
		if err := create(strings.Replace(string(text), fault, want, 1)); err == nil {
			t.Errorf("with %q instead of %q it is taken too", want, fault)
		}
	}
	inNFD(t, "test", "./...")
}
