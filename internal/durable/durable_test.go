package durable_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/durable"
)

const version = "assay-test 1"

func TestWriteFileReplacesContentAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	for _, step := range []struct {
		content string
		mode    os.FileMode
	}{{"first", 0o600}, {"second, and longer", 0o644}, {"", 0o600}} {
		if err := durable.WriteFile(path, []byte(step.content), step.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != step.content || info.Mode().Perm() != step.mode {
			t.Errorf("have %q with mode %04o, want %q with %04o", got, info.Mode().Perm(), step.content, step.mode)
		}
	}
}

func TestWriteFileFailedLeavesOldContentAndNoTemporaryFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "taken")
	if err := os.MkdirAll(filepath.Join(path, "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil { // a rename onto a folder fails after the temporary file is full
		t.Fatal("a folder was replaced by a file")
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	if err := durable.WriteFile(filepath.Join(folder, "missing", "file"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("write into a missing folder: %v", err)
	}
}

func TestCreateFileTouchesNothingThatIsThere(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "policy")
	if err := durable.CreateFile(path, []byte("first"), 0o644); err != nil {
		t.Fatal(err)
	}
	dangling := filepath.Join(folder, "link")
	if err := os.Symlink(filepath.Join(folder, "nowhere"), dangling); err != nil {
		t.Fatal(err)
	}
	for _, taken := range []string{path, dangling} {
		if err := durable.CreateFile(taken, []byte("second"), 0o644); !errors.Is(err, os.ErrExist) {
			t.Errorf("create %s where something is: %v", taken, err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "first" {
		t.Errorf("have %q, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := durable.CreateFile(filepath.Join(folder, "missing", "file"), nil, 0o600); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("create in a missing folder: %v", err)
	}
}

func TestOpenMakesPrivateDirectoryAndComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	for range 2 {
		dir, err := durable.Open(path, version)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := dir.Path("x", "y"), filepath.Join(path, "x", "y"); got != want {
			t.Errorf("path %q, want %q", got, want)
		}
		if err := dir.Close(); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %04o", info.Mode().Perm())
	}
}

func TestOpenRefusesOtherVersion(t *testing.T) {
	path := t.TempDir()
	dir, err := durable.Open(path, version)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = durable.Open(path, "assay-test 2")
	if !errors.Is(err, durable.ErrVersion) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), version) {
		t.Errorf("have %v", err)
	}
	if dir, err = durable.Open(path, version); err != nil {
		t.Fatalf("after the refusal: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesEmptyVersionFile(t *testing.T) {
	path := t.TempDir()
	if err := os.WriteFile(filepath.Join(path, "VERSION"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Open(path, version); err == nil {
		t.Error("an empty version file was accepted")
	}
}

func TestOpenRefusesDirectoryInUse(t *testing.T) {
	path := t.TempDir()
	dir, err := durable.Open(path, version)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Open(path, version); !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), "process") {
		t.Errorf("second opening: %v", err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
	if dir, err = durable.Open(path, version); err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
}

// A process that dies by SIGKILL cleans nothing up; its directory must open again all the same.
func TestOpenAfterHolderWasKilled(t *testing.T) {
	if path := os.Getenv("DURABLE_TEST_HOLD"); path != "" {
		if _, err := durable.Open(path, version); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("held\n")
		select {}
	}
	path := t.TempDir()
	holder := exec.Command(os.Args[0], "-test.run=^TestOpenAfterHolderWasKilled$")
	holder.Env = append(os.Environ(), "DURABLE_TEST_HOLD="+path)
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Open(path, version); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("while it is held: %v", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait() // "signal: killed" is what we asked for
	dir, err := durable.Open(path, version)
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusesUnusableDirectories(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := t.TempDir()
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, path, want string }{
		{"a file", file, "not a directory"},
		{"below a file", filepath.Join(file, "x"), "not a directory"},
		{"writable by everybody", open, "chmod 700"},
		{"not writable even for root", "/sys/kernel", "not writable"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := durable.Open(row.path, version)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q in it", err, row.want)
			}
		})
	}
}

// TestOpenRefusesPlantedLock: whoever owns the directory must not make a stronger process truncate a file elsewhere.
func TestOpenRefusesPlantedLock(t *testing.T) {
	for name, plant := range map[string]func(victim, lock string) error{"symbolic link": os.Symlink, "hard link": os.Link} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			victim, dir := filepath.Join(base, "victim"), filepath.Join(base, "state")
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := plant(victim, filepath.Join(dir, "LOCK")); err != nil {
				t.Fatal(err)
			}
			if d, err := durable.Open(dir, "test 1"); err == nil {
				t.Error("a planted lock was opened", d.Close())
			}
			if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
				t.Errorf("the victim holds %q, %v", text, err)
			}
			if err := os.Remove(filepath.Join(dir, "LOCK")); err != nil {
				t.Fatal(err)
			}
			d, err := durable.Open(dir, "test 1")
			if err != nil {
				t.Fatalf("without the planted lock: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
