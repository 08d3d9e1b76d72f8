package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Program("no-such-program", "brings-it"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "Debian package brings-it") {
		t.Errorf("got %v", err)
	}
	// mkfs.ext4 is where only root's PATH looks.
	if got, err := Program("mkfs.ext4", "e2fsprogs"); err == nil && filepath.Base(filepath.Dir(got)) != "sbin" {
		t.Errorf("got %s", got)
	}
}

func TestRunTool(t *testing.T) {
	if out, err := RunTool(exec.Command("sh", "-c", "echo out; echo err >&2")); err != nil || out != "out\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if _, err := RunTool(exec.Command("sh", "-c", "echo why >&2; exit 3")); err == nil || !strings.HasSuffix(err.Error(), "exit status 3: why") {
		t.Errorf("got %v", err)
	}
}

func TestModTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if !ModTime(path).IsZero() {
		t.Error("a file that is not there has a time")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ModTime(path).IsZero() {
		t.Error("a file has no time")
	}
}

func TestLastLines(t *testing.T) {
	for text, want := range map[string]string{"": "", "one": "one", "1\n2\n3\n\n": "2; 3", "a\x1b[2Jb\r\nc\u202e": "a[2Jb; c"} {
		if got := LastLines(text, 2); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestNoSpaceNamesTheFolder(t *testing.T) {
	dir := t.TempDir()
	if err := CheckSpace(dir, 1<<62); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v", err)
	}
	if err := CheckSpace(dir, 1); err != nil {
		t.Error(err)
	}
}
