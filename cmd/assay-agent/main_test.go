package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"assay-agent": main})
}

// TestScripts runs testdata/*.txtar, which are the program's manual: what a person types and what comes back.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata"})
}

// maxBinaryBytes is the aim for what ships.
const maxBinaryBytes = 35 << 20

// The agent is one static file that fits on a small machine, and holds nothing that a node has no use for.
func TestStaticAndSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay-agent")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBinaryBytes {
		t.Errorf("the binary has %d bytes, more than %d", info.Size(), maxBinaryBytes)
	}
	list := exec.Command("go", "list", "-deps", ".")
	list.Env = build.Env
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dependency := range strings.Lines(string(out)) {
		const ours = "github.com/assay-project/assay/"
		for _, stranger := range []string{"k8s.io/", "database/sql", "modernc.org/", ours + "web", ours + "sqlstore", ours + "verifier", ours + "registrar"} {
			if dependency = strings.TrimSpace(dependency); strings.HasPrefix(dependency, stranger) {
				t.Errorf("the agent links %s", dependency)
			}
		}
	}
}
