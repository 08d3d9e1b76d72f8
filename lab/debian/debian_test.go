package debian

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// fakeApt is an apt-get that answers --print-uris with what is given and downloads nothing.
func fakeApt(t *testing.T, answer string) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in *--print-uris*) cat <<'X'\n" + answer + "\nX\n;; *) echo no network >&2; exit 100;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// aptAnswer is what apt says of so many packages.
func aptAnswer(n int) string {
	var lines []string
	for i := range n {
		lines = append(lines, "'http://mirror/p.deb' p"+strings.Repeat("x", i)+"_1%3a2.0-1_amd64.deb 1 SHA256:00")
	}
	return strings.Join(lines, "\n")
}

func TestResolvePackages(t *testing.T) {
	fakeApt(t, aptAnswer(3))
	got, err := resolve(t.Context(), []string{"a"})
	if err != nil || !slices.Equal(got, []string{"p=1:2.0-1", "px=1:2.0-1", "pxx=1:2.0-1"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := resolve(t.Context(), []string{"a", "b", "c", "d"}); err == nil || !strings.Contains(err.Error(), "3 packages where 4") {
		t.Errorf("too few: %v", err)
	}
	fakeApt(t, "'http://mirror/strange' strange.deb 1 SHA256:00")
	if _, err := resolve(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), `"strange.deb"`) {
		t.Errorf("strange name: %v", err)
	}
}

func TestCachedDebianServesWithoutNetwork(t *testing.T) {
	cache := t.TempDir()
	fakeApt(t, aptAnswer(len(wanted)))
	silent := func(string) {}
	if _, err := Fetch(t.Context(), cache, silent); !errors.Is(err, ErrNoPackages) || !strings.Contains(err.Error(), "no network") {
		t.Errorf("nothing cached: %v", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 0 {
		t.Errorf("left in the cache: %v, %v", left, err)
	}
	for i, name := range []string{"debian-old", "debian-new"} {
		path := filepath.Join(cache, name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(time.Duration(i-2) * time.Hour)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	var said string
	got, err := Fetch(t.Context(), cache, func(text string) { said = text })
	if err != nil || filepath.Base(got) != "debian-new" || !strings.Contains(said, "no network") {
		t.Errorf("got %s, %v, said %q", got, err, said)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Fetch(cancelled, t.TempDir(), silent); !errors.Is(err, ErrNoPackages) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestConfigureDebian(t *testing.T) {
	tree := t.TempDir()
	if err := configure(tree); err == nil {
		t.Error("a tree without base-passwd was configured")
	}
	for _, dir := range []string{"etc/pam.d", "usr/share/base-passwd", "usr/share/man"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"passwd": "root:*:0:0:root:/root:/bin/bash\n", "group": "root:*:0:\n"} {
		if err := os.WriteFile(filepath.Join(tree, "usr/share/base-passwd", name+".master"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := configure(tree); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"shadow": "root:*:19000:0:99999:7:::\n", "gshadow": "root:*::\n", "pam.d/common-auth": "auth required pam_unix.so\n"} {
		if got, err := os.ReadFile(filepath.Join(tree, "etc", name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "usr/share/man")); err == nil {
		t.Error("the manuals are still there")
	}
}

func TestMergeUsr(t *testing.T) {
	tree := t.TempDir()
	if err := mergeUsr(tree); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(filepath.Join(tree, "lib64")); err != nil || target != "usr/lib64" {
		t.Errorf("lib64 leads to %q, %v", target, err)
	}
	if err := mergeUsr(tree); err == nil {
		t.Error("merged again")
	}
	if err := unpack(t.Context(), filepath.Join(tree, "none.deb"), tree); err == nil || !strings.Contains(err.Error(), "dpkg-deb") && !strings.Contains(err.Error(), "exit status") {
		t.Errorf("no package: %v", err)
	}
}
