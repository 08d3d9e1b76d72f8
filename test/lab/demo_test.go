package lab

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDemo runs what `make demo` runs.
func TestDemo(t *testing.T) {
	exclusive(t)
	out, err := demo(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"Trusted, after", "Failed, after", "FileDigestMismatch", "path     " + program, "still Failed", "(reboot)", "All of it happened."} {
		if !strings.Contains(out, want) {
			t.Errorf("the story does not tell %q:\n%s", want, out)
		}
	}
}

// TestDemoFailsUntampered: the story is no show; without its tampering it does not end well.
func TestDemoFailsUntampered(t *testing.T) {
	exclusive(t)
	out, err := demo(t, "--leave-untampered")
	if err == nil {
		t.Fatalf("the story ended well without its tampering:\n%s", out)
	}
	if !strings.Contains(out, "step 7") || !strings.Contains(out, "it is Trusted") {
		t.Errorf("it failed for another reason: %v\n%s", err, out)
	}
}

func demo(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "assay"), append([]string{"demo"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
