package v1alpha1

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const crdFolder = "../../deploy/chart/crds"

// TestGenerated runs the command of the go:generate line with another folder for its output.
func TestGenerated(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	tool := regexp.MustCompile(`go run (sigs\.k8s\.io/controller-tools/\S+)`).FindSubmatch(source)
	if tool == nil {
		t.Fatal("doc.go has no go:generate line")
	}
	dir := t.TempDir()
	cmd := exec.Command("go", "run", string(tool[1]), "object", "crd", "paths=.", "output:crd:dir="+dir, "output:object:dir="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(made) != 4 {
		t.Fatalf("made %v, %v; want three CRDs and the deep copies", made, err)
	}
	for _, path := range made {
		committed := filepath.Join(crdFolder, filepath.Base(path))
		if filepath.Ext(path) == ".go" {
			committed = filepath.Base(path)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(committed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(have)); diff != "" {
			t.Errorf("%s is not what go generate makes (-generated +committed):\n%s", committed, diff)
		}
	}
}
