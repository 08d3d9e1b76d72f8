package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
)

// machineTree is a small root file system on disk, with what a walk meets.
func machineTree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, file := range map[string]struct {
		content string
		mode    fs.FileMode
	}{
		"usr/bin/a":                 {"a", 0o755},
		"usr/bin/only others":       {"b", 0o601},
		"usr/lib/libc.so.6":         {"\x7fELF libc", 0o644},
		"usr/lib/modules/6.1/x.ko":  {"module", 0o644},
		"usr/lib/modules/y.ko.xz":   {"module y", 0o644},
		"usr/lib/firmware/f.bin":    {"firmware", 0o644},
		"etc/passwd":                {"root", 0o644},
		"etc/empty":                 {"", 0o644},
		"usr/bin/large":             {strings.Repeat("large", 100_000), 0o755},
		"proc/1/exe":                {"proc", 0o755},
		"usr/share/bad\xffname":     {"x", 0o755},
		"usr/share/uni-é中.sh":       {"#!", 0o755},
		"usr/share/tab\tand\"quote": {"#!", 0o755},
		"home/" + strings.Repeat("long/", 240) + "program": {"#!", 0o755},
	} {
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(file.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(full, file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"bin": "usr/bin", "usr/bin/link": "a", "usr/bin/loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func build(t *testing.T, o BuildOptions) *Document {
	t.Helper()
	d, err := BuildRuntime(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// stand tells how a file with the given content stands.
func stand(d *Document, path, content string) string {
	return d.Runtime().File(path, attest.SHA256.Sum([]byte(content))).String()
}

func TestBuildFromTree(t *testing.T) {
	tree := os.DirFS(machineTree(t))
	var last BuildProgress
	calls := 0
	d := build(t, BuildOptions{Name: "golden", Tree: tree, Skip: []string{"/proc"}, IMAPolicies: [][]byte{[]byte("rules")}, Excludes: []string{"/tmp/.*"},
		EarlyBoot: []string{"/usr/lib/.*"}, Progress: func(p BuildProgress) { last, calls = p, calls+1 }})
	got := map[string]string{}
	for path, content := range map[string]string{
		"/usr/bin/a": "a", "/usr/bin/only_others": "b", "/usr/lib/libc.so.6": "\x7fELF libc", "/usr/lib/modules/6.1/x.ko": "module", "/usr/lib/modules/y.ko.xz": "module y",
		"/usr/lib/firmware/f.bin": "firmware", "/etc/passwd": "root", "/etc/empty": "", "/usr/bin/large": strings.Repeat("large", 100_000), "/proc/1/exe": "proc",
		"/usr/share/uni-é中.sh": "#!", "/usr/share/tab\tand\"quote": "#!", "/home/" + strings.Repeat("long/", 240) + "program": "#!", "/usr/bin/link": "a", "/bin/a": "a",
	} {
		if len(path) > 100 {
			got["long"] = stand(d, path, content)
			continue
		}
		got[path] = stand(d, path, content)
	}
	want := map[string]string{
		"/usr/bin/a": "Approved", "/usr/bin/only_others": "Approved", "/usr/lib/libc.so.6": "Approved", "/usr/lib/modules/6.1/x.ko": "Approved", "/usr/lib/modules/y.ko.xz": "Approved",
		"/usr/lib/firmware/f.bin": "Approved", "/etc/passwd": "Unlisted", "/etc/empty": "Unlisted", "/usr/bin/large": "Approved", "/proc/1/exe": "Unlisted",
		"/usr/share/uni-é中.sh": "Approved", "/usr/share/tab\tand\"quote": "Approved", "long": "Approved", "/usr/bin/link": "Unlisted", "/bin/a": "Unlisted",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	p := d.Runtime()
	if policies := p.IMAPolicies(); len(policies) != 1 || policies[0] != attest.SHA256.Sum([]byte("rules")) || !p.Excludes("/tmp/x") || !p.EarlyBoot("/usr/lib/x") {
		t.Errorf("policies %v", policies)
	}
	if want := (BuildProgress{Path: last.Path, Seen: 12, Listed: 10, Bytes: last.Bytes}); last != want || calls != 12 || last.Bytes < 500_000 {
		t.Errorf("progress %+v after %d calls, want %+v", last, calls, want)
	}
	if !strings.Contains(string(d.Bytes()), `# left out: "/usr/share/bad\xffname": name is not UTF-8`) {
		t.Errorf("no comment on a name that cannot be written:\n%.300s", d.Bytes())
	}
	if again := build(t, BuildOptions{Name: "golden", Tree: tree, Skip: []string{"proc/"}, IMAPolicies: [][]byte{[]byte("rules")}, Excludes: []string{"/tmp/.*"},
		EarlyBoot: []string{"/usr/lib/.*"}}); again.Digest() != d.Digest() {
		t.Error("the same tree made other bytes")
	}
}

func TestBuildAllFiles(t *testing.T) {
	d := build(t, BuildOptions{Name: "all", Tree: os.DirFS(machineTree(t)), Coverage: AllFiles, Hash: attest.SHA512})
	for path, content := range map[string]string{"/etc/passwd": "root", "/etc/empty": "", "/proc/1/exe": "proc"} {
		if got := d.Runtime().File(path, attest.SHA512.Sum([]byte(content))); got != Approved {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestBuildEmpty(t *testing.T) {
	d := build(t, BuildOptions{Name: "empty", Tree: fstest.MapFS{}})
	if want := "apiVersion: policy.assay/v1\nkind: Runtime\nmetadata:\n  name: \"empty\"\nspec: {}\n"; string(d.Bytes()) != want {
		t.Errorf("%s", d.Bytes())
	}
}

// faultyFS fails at one file: on open with err, or in reading.
type faultyFS struct {
	fs.FS
	name string
	err  error
}

func (f faultyFS) Open(name string) (fs.File, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: f.err}
	}
	return f.FS.Open(name)
}

func TestBuildErrors(t *testing.T) {
	tree := fstest.MapFS{"usr/bin/a": {Data: []byte("a"), Mode: 0o755}, "usr/bin/b": {Data: []byte("b"), Mode: 0o755}}
	broken := errors.New("input/output error")
	_, err := BuildRuntime(t.Context(), BuildOptions{Name: "x", Tree: faultyFS{tree, "usr/bin/a", broken}})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "read /usr/bin/a") {
		t.Errorf("error %v", err)
	}
	d := build(t, BuildOptions{Name: "x", Tree: faultyFS{tree, "usr/bin/a", fs.ErrNotExist}})
	if stand(d, "/usr/bin/a", "a") != "Unlisted" || stand(d, "/usr/bin/b", "b") != "Approved" || !strings.Contains(string(d.Bytes()), `"/usr/bin/a": vanished`) {
		t.Errorf("a file that vanishes:\n%s", d.Bytes())
	}
	if _, err := BuildRuntime(t.Context(), BuildOptions{Name: "x", Tree: os.DirFS("/nonexistent")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no tree: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := BuildRuntime(ended, BuildOptions{Name: "x", Tree: tree}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := BuildRuntime(t.Context(), BuildOptions{Name: "a/b", Tree: tree}); err == nil || !strings.Contains(err.Error(), "metadata.name") {
		t.Errorf("bad name: %v", err)
	}
	if _, err := BuildRuntime(t.Context(), BuildOptions{Name: "x", Hash: 7}); !errors.Is(err, attest.ErrHash) {
		t.Errorf("bad hash: %v", err)
	}
}

// captured is the list of a boot of Debian's kernel 6.12; see testdata/README.md.
func captured(t testing.TB) *ima.List {
	t.Helper()
	text, err := os.ReadFile("testdata/ascii_runtime_measurements")
	if err != nil {
		t.Fatal(err)
	}
	list, err := ima.ParseASCII(text)
	if err != nil {
		t.Fatal(err)
	}
	return &list
}

func TestBuildFromList(t *testing.T) {
	list := captured(t)
	d := build(t, BuildOptions{Name: "from-list", List: list})
	count := 0
	for _, e := range list.All() {
		if e.PCR != 10 || e.Violation || e.Path == "boot_aggregate" {
			continue
		}
		count++
		if got := d.Runtime().File(e.Path, e.Digest); got != Approved {
			t.Errorf("%s: %s", e.Path, got)
		}
	}
	if count < 10 || d.Runtime().File("boot_aggregate", list.Entries()[0].Digest) != Unlisted || len(d.Runtime().BootAggregates()) != 0 {
		t.Errorf("%d entries", count)
	}
}

// listOf writes entries of ima-ng and ima-buf as the kernel does and parses them.
func listOf(t testing.TB, lines ...string) *ima.List {
	t.Helper()
	list, err := ima.ParseASCII([]byte(strings.Join(lines, "")))
	if err != nil {
		t.Fatal(err)
	}
	return &list
}

// measuredLine is an entry of a list. Its template hash is made up: making a document does not look at it.
func measuredLine(template string, d attest.Digest, name, tail string) string {
	return fmt.Sprintf("10 %s %s %s %s%s\n", strings.Repeat("11", 20), template, d, name, tail)
}

func TestBuildFromListWithPolicy(t *testing.T) {
	rules, buffer, key := attest.SHA256.Sum([]byte("rules")), attest.SHA256.Sum([]byte("buffer")), newKeys(t)[0].spki
	list := listOf(t,
		measuredLine("ima-ng", digestB, "boot_aggregate", ""),
		measuredLine("ima-ng", digestA, "/usr/lib/systemd/systemd", ""),
		measuredLine("ima-ng", rules, PolicyPath, ""),
		measuredLine("ima-buf", buffer, "ima_policy_loaded", " 00"),
		measuredLine("ima-buf", digestA, "kexec-cmdline", " 00"),
		measuredLine("ima-buf", digestB, ".ima", fmt.Sprintf(" %x", key)),
		measuredLine("ima-ng", digestB, "/usr/bin/b", ""),
	)
	p := build(t, BuildOptions{Name: "n", List: list}).Runtime()
	for what, ok := range map[string]bool{
		"policies":       fmt.Sprint(p.IMAPolicies()) == fmt.Sprint([]attest.Digest{buffer, rules}) || fmt.Sprint(p.IMAPolicies()) == fmt.Sprint([]attest.Digest{rules, buffer}),
		"early boot":     p.EarlyBoot("/usr/lib/systemd/systemd") && !p.EarlyBoot("/usr/bin/b"),
		"early digest":   p.File("/usr/lib/systemd/systemd", digestA) == Approved,
		"no policy file": p.File(PolicyPath, rules) == Unlisted,
		"buffer":         p.Buffer("kexec-cmdline", digestA) == Approved && p.Buffer(".ima", digestB) == Unlisted,
		"keyring":        p.Keyring(".ima", digestB) == Approved,
	} {
		if !ok {
			t.Errorf("%s: not so", what)
		}
	}
	given := build(t, BuildOptions{Name: "n", List: list, IMAPolicies: [][]byte{[]byte("other rules")}}).Runtime()
	for _, d := range given.IMAPolicies() {
		if d == rules {
			t.Error("the list's policy file was approved although approved ones were given")
		}
	}
}
