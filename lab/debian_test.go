package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/lab/guest"
)

// A Debian machine is like the others, with systemd as PID 1, which loads the IMA policy once it runs itself.
func TestDebianMachine(t *testing.T) {
	place(t)
	m := boot(t, Config{
		System: Debian, Files: []File{{Path: "/etc/greeting", Mode: 0o640, Data: []byte("hello\n")}},
		Services: []guest.Service{{Name: "worker", Args: []string{"/bin/sleep", "100000"}, User: "nobody"}},
	})
	got := output(t, m, "cat /proc/1/comm /etc/greeting; systemctl is-system-running --wait; stat -c '%a %U' /usr/bin/sudo /tmp; systemctl --failed --no-legend; sudo id -un")
	if want := "systemd\nhello\nrunning\n4755 root\n1777 root\nroot"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := output(t, m, "grep -l sleep /proc/[0-9]*/comm | xargs -n 1 dirname | xargs stat -c %U"); got != "nobody" {
		t.Errorf("the service is %q's", got)
	}
	lines := strings.Split(output(t, m, "cat "+listPath), "\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasSuffix(line, " "+guest.PolicyPath) })
	if at < 2 || !strings.HasSuffix(lines[1], " /usr/lib/systemd/systemd") || !strings.Contains(lines[at-1], ".so") || strings.Contains(lines[at+1], ".so") {
		t.Errorf("the policy is entry %d of\n%s", at, strings.Join(lines[:min(len(lines), 40)], "\n"))
	}
	checkPolicyClosed(t, m)
	if err := m.Client().PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if running, _ := m.Running(t.Context()); !running {
			break
		}
		if time.Now().After(end) {
			t.Fatal("still on")
		}
	}
}

// fakeApt is an apt-get that answers --print-uris with what is given and downloads nothing.
func fakeApt(t *testing.T, answer string) {
	t.Helper()
	dir := t.TempDir()
	script(t, dir, "apt-get", "case \"$*\" in *--print-uris*) cat <<'X'\n"+answer+"\nX\n;; *) echo no network >&2; exit 100;; esac")
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
	got, err := resolvePackages(t.Context(), []string{"a"})
	if err != nil || !slices.Equal(got, []string{"p=1:2.0-1", "px=1:2.0-1", "pxx=1:2.0-1"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := resolvePackages(t.Context(), []string{"a", "b", "c", "d"}); err == nil || !strings.Contains(err.Error(), "3 packages where 4") {
		t.Errorf("too few: %v", err)
	}
	fakeApt(t, "'http://mirror/strange' strange.deb 1 SHA256:00")
	if _, err := resolvePackages(t.Context(), []string{"a"}); err == nil || !strings.Contains(err.Error(), `"strange.deb"`) {
		t.Errorf("strange name: %v", err)
	}
}

func TestCachedDebianServesWithoutNetwork(t *testing.T) {
	cache := t.TempDir()
	fakeApt(t, aptAnswer(len(debianPackages)))
	silent := func(string) {}
	if _, err := FetchDebian(t.Context(), cache, silent); !errors.Is(err, ErrNoDebian) || !strings.Contains(err.Error(), "no network") {
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
	got, err := FetchDebian(t.Context(), cache, func(text string) { said = text })
	if err != nil || filepath.Base(got) != "debian-new" || !strings.Contains(said, "no network") {
		t.Errorf("got %s, %v, said %q", got, err, said)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := FetchDebian(cancelled, t.TempDir(), silent); !errors.Is(err, ErrNoDebian) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestConfigureDebian(t *testing.T) {
	tree := t.TempDir()
	if err := configureDebian(tree); err == nil {
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
	if err := configureDebian(tree); err != nil {
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
	if err := unpackPackage(t.Context(), filepath.Join(tree, "none.deb"), tree); err == nil || !strings.Contains(err.Error(), "dpkg-deb") && !strings.Contains(err.Error(), "exit status") {
		t.Errorf("no package: %v", err)
	}
}
