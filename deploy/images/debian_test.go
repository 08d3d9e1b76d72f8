package images

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
)

// cache keeps packages between runs, where make build keeps them.
const cache = "../../.cache/debian"

// TestSwtpm makes the image from Debian's packages for all architectures and manufactures a TPM with nothing but what is in it.
func TestSwtpm(t *testing.T) {
	need.Root(t)
	need.Program(t, "apt", "apt-get")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	image, err := Find("assay-swtpm")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]File{}
	for _, architecture := range Architectures() {
		if files[architecture], err = image.DebianFiles(ctx, Apt{Cache: cache, Architecture: architecture}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := image.Index("v1", files); err != nil {
		t.Fatal(err)
	}
	root := unpack(t, append(baseFiles(), files["amd64"]...))
	for name, text := range map[string]string{
		"state/ca.conf":    "statedir = /state/ca\nsigningkey = /state/ca/key.pem\nissuercert = /state/ca/issuer.pem\ncertserial = /state/ca/serial\n",
		"state/ca.options": "--platform-manufacturer Assay --platform-version 1 --platform-model test\n",
		"state/setup.conf": "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = /state/ca.conf\ncreate_certs_tool_options = /state/ca.options\n",
		"dev/null":         "",
	} {
		writeFile(t, filepath.Join(root, name), []byte(text), 0o644)
	}
	inside(t, ctx, root, "/usr/bin/swtpm_setup", "--tpm2", "--tpmstate", "/state", "--config", "/state/setup.conf", "--create-ek-cert", "--lock-nvram", "--pcr-banks", "sha256")
	for _, name := range []string{"state/tpm2-00.permall", "state/ca/issuer.pem"} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s was not made: %v", name, err)
		}
	}
	if text := inside(t, ctx, root, "/usr/bin/swtpm", "--version"); !strings.Contains(text, "TPM emulator version") {
		t.Errorf("swtpm says %q", text)
	}
}

// inside runs a program with root as its only file system, and no rights beyond that.
func inside(t *testing.T, ctx context.Context, root string, program string, arguments ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Path, cmd.Err = program, nil
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Pdeathsig: syscall.SIGKILL}
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, text)
	}
	return string(text)
}

func unpack(t *testing.T, files []File) string {
	t.Helper()
	root := t.TempDir()
	all, err := withFolders(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		path := filepath.Join(root, f.Path)
		switch {
		case f.Mode.IsDir():
			err = os.MkdirAll(path, f.Mode.Perm())
		case f.Mode&os.ModeSymlink != 0:
			err = os.Symlink(f.Link, path)
		default:
			writeFile(t, path, f.Data, f.Mode.Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func writeFile(t *testing.T, path string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
}

// TestLinked takes one file away that a program needs.
func TestLinked(t *testing.T) {
	need.Program(t, "apt", "apt-get")
	archives, err := Apt{Cache: cache, Architecture: "arm64"}.fetch(t.Context(), []string{"swtpm"})
	if err != nil {
		t.Fatal(err)
	}
	all := tree{}
	for _, archive := range archives {
		data, err := os.ReadFile(archive)
		if err != nil {
			t.Fatal(err)
		}
		p, err := parseDebian(data)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.files {
			all[f.Path] = f
		}
	}
	programs := []string{"usr/bin/swtpm"}
	linked, err := all.linked(programs, "arm64")
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(linked, "\n"); !strings.Contains(text, "ld-linux-aarch64.so.1") || !strings.Contains(text, "usr/lib/aarch64-linux-gnu/libtpms.so.0.") {
		t.Errorf("linker or library is missing:\n%s", text)
	}
	delete(all, "usr/lib/aarch64-linux-gnu/libtpms.so.0")
	if _, err := all.linked(programs, "arm64"); err == nil || !strings.Contains(err.Error(), "library libtpms.so.0: no package holds it") {
		t.Errorf("without libtpms: %v", err)
	}
	all["usr/bin/swtpm"] = File{Path: "usr/bin/swtpm", Data: []byte("#!/bin/sh\n")}
	if _, err := all.linked(programs, "arm64"); err == nil || !strings.Contains(err.Error(), "usr/bin/swtpm: not a program or library") {
		t.Errorf("a script: %v", err)
	}
	if _, err := all.linked([]string{"usr/bin/none"}, "arm64"); err == nil || !strings.Contains(err.Error(), "usr/bin/none: no package holds it") {
		t.Errorf("a missing program: %v", err)
	}
}

func TestPackagesNotThere(t *testing.T) {
	need.Program(t, "apt", "apt-get")
	apt := Apt{Cache: cache, Architecture: "amd64"}
	if _, err := apt.fetch(t.Context(), []string{"assay-no-such-package"}); !errors.Is(err, ErrNoPackages) || !strings.Contains(err.Error(), "assay-no-such-package") {
		t.Errorf("unknown package: %v", err)
	}
	apt.Architecture = "vax"
	if _, err := apt.fetch(t.Context(), []string{"swtpm"}); err == nil || !strings.Contains(err.Error(), `architecture "vax"`) {
		t.Errorf("unknown architecture: %v", err)
	}
}
