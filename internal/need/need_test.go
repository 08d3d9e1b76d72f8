package need

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// recorder is a test that only notes its first end, and goes on.
type recorder struct {
	testing.TB
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.end("skipped: " + fmt.Sprintf(format, args...))
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.end("failed: " + fmt.Sprintf(format, args...))
}

func (r *recorder) end(how string) {
	if r.said == "" {
		r.said = how
	}
}

func TestMissingSkipsAndUnderCIFails(t *testing.T) {
	for ci, want := range map[string]string{
		"":     "skipped: needs no-such-program (Debian package brings-it)",
		"true": "failed: needs no-such-program (Debian package brings-it); under CI that is a failure",
	} {
		t.Setenv("CI", ci)
		r := &recorder{TB: t}
		Program(r, "brings-it", "sh", "no-such-program")
		if r.said != want {
			t.Errorf("CI=%q: %q, want %q", ci, r.said, want)
		}
		r.said = ""
		Program(r, "dash", "sh")
		if r.said != "" {
			t.Errorf("sh: %q", r.said)
		}
	}
}

// With nothing in PATH, everything that the lab takes from there is named with its package, at once. What lies in the folders of the system's
// programs is found all the same.
func TestLabNamesEverything(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	t.Setenv("CI", "")
	r := &recorder{TB: t}
	Lab(r)
	for _, want := range []string{
		"swtpm (Debian package swtpm)", "swtpm_setup (Debian package swtpm-tools)", "qemu-system-x86_64 (Debian package qemu-system-x86)",
		"apt-get (Debian package apt)", "dpkg-deb (Debian package dpkg)", "static busybox (Debian package busybox-static)",
	} {
		if !strings.Contains(r.said, want) {
			t.Errorf("nothing about %s in %q", want, r.said)
		}
	}
	for _, path := range []string{"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if _, err := os.Stat(path); err == nil && strings.Contains(r.said, "mkfs.ext4") {
			t.Errorf("%s is there and is said to be missing: %q", path, r.said)
		}
	}
	// A busybox that needs libraries is none.
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(empty, "busybox")); err != nil {
		t.Fatal(err)
	}
	if lacking := slices.Contains(lackingLab(), "static busybox (Debian package busybox-static)"); lacking != dynamic(program) {
		t.Errorf("this program as busybox: lacking %v, dynamic %v", lacking, dynamic(program))
	}
	if !dynamic(filepath.Join(empty, "none")) {
		t.Error("a program that is not there counts as static")
	}
}
