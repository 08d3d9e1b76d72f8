package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/internal/need"
)

// dropConfig is set in the environment of the child of TestDropRights, which gives up its rights for good.
const dropConfig = "DROP_RIGHTS_CONFIG"

// afterDrop is what the child reports.
type afterDrop struct {
	// Threads holds the identity lines of /proc/self/task/*/status, once each.
	Threads []string
	// Regained says which ways back to root worked.
	Regained []string
	// Opened says which of root's files could be opened.
	Opened []string
	// Quoted and List are what still works.
	Quoted bool
	List   string
	State  string // the error of writing to the state directory
}

func TestDropRights(t *testing.T) {
	need.Root(t)
	emulator := startTPM(t)
	dir := t.TempDir()
	for at := dir; at != os.TempDir() && at != "/"; at = filepath.Dir(at) { // the child's user has to reach its state
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// An emulator's socket is connected to for each command; a device stays open.
	for path, mode := range map[string]os.FileMode{filepath.Dir(emulator.Socket()): 0o755, emulator.Socket(): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	list := filepath.Join(dir, "list")
	first, second := listLine("boot_aggregate", "x"), listLine("/bin/sh", "sh")
	if err := os.WriteFile(list, []byte(first), 0o400); err != nil {
		t.Fatal(err)
	}
	config := offline(t, emulator)
	config.IMAList, config.StateDir, config.User = list, filepath.Join(dir, "state"), "nobody"
	encoded, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	// With cgo the runtime does not know all threads, so the child is built as the program is.
	binary := filepath.Join(dir, "agent.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the child: %v\n%s", err, out)
	}
	child := exec.Command(binary, "-test.run=^TestDropRightsChild$", "-test.v")
	child.Env = append(os.Environ(), dropConfig+"="+string(encoded), "DROP_RIGHTS_APPEND="+second)
	out, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	_, report, found := bytes.Cut(out, []byte("REPORT "))
	if !found {
		t.Fatalf("the child reports nothing:\n%s", out)
	}
	line, _, _ := bytes.Cut(report, []byte("\n"))
	var got afterDrop
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	nobody, err := lookupIdentity("nobody")
	if err != nil {
		t.Fatal(err)
	}
	none := strings.Repeat("0", 16)
	id := func(name string, n int) string { return fmt.Sprintf("%s:\t%d\t%d\t%d\t%d", name, n, n, n, n) }
	want := afterDrop{
		Threads: []string{
			"CapAmb:\t" + none, "CapEff:\t" + none, "CapInh:\t" + none, "CapPrm:\t" + none,
			id("Gid", nobody.gid), fmt.Sprintf("Groups:\t%d ", nobody.gid), "NoNewPrivs:\t1", id("Uid", nobody.uid),
		},
		Quoted: true, List: first + second,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestDropRightsChild does nothing but as the child of TestDropRights.
func TestDropRightsChild(t *testing.T) {
	encoded := os.Getenv(dropConfig)
	if encoded == "" {
		return
	}
	config := DefaultConfig()
	if err := json.Unmarshal([]byte(encoded), &config); err != nil {
		t.Fatal(err)
	}
	// Threads that exist before the drop must lose their rights too.
	hold := make(chan struct{})
	defer close(hold)
	for range 4 {
		go func() { runtime.LockOSThread(); <-hold }()
	}
	a, err := New(config, Environment{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	appending, err := os.OpenFile(config.IMAList, os.O_APPEND|os.O_WRONLY, 0) // stands for the kernel
	if err != nil {
		t.Fatal(err)
	}
	if err := a.DropRights(); err != nil {
		t.Fatal(err)
	}
	if _, err := appending.WriteString(os.Getenv("DROP_RIGHTS_APPEND")); err != nil {
		t.Fatal(err)
	}
	report, err := json.Marshal(look(t, a))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nREPORT %s\n", report)
}

// look tries what must not work any more and what must.
func look(t *testing.T, a *Agent) afterDrop {
	var got afterDrop
	got.Threads = identities(t)
	for name, try := range map[string]func() error{
		"setuid":    func() error { return syscall.Setuid(0) },
		"setresuid": func() error { return syscall.Setresuid(0, 0, 0) },
		"setgid":    func() error { return syscall.Setgid(0) },
		"setgroups": func() error { return syscall.Setgroups([]int{0}) },
	} {
		if try() == nil {
			got.Regained = append(got.Regained, name)
		}
	}
	for _, path := range []string{a.config.IMAList, "/etc/shadow"} {
		if file, err := os.Open(path); err == nil {
			got.Opened = append(got.Opened, path)
			_ = file.Close()
		}
	}
	who, err := a.identify() // makes the AK and writes to the state directory
	if err != nil {
		got.State = err.Error()
		return got
	}
	_, err = a.device.quote([]byte("nonce"), pcr.Select(bank, 10), who.transport)
	got.Quoted = err == nil
	list, _, err := a.list.from(0)
	if err != nil {
		t.Error(err)
	}
	got.List = string(list)
	return got
}

// identities collects what the threads of this process say of their rights.
func identities(t *testing.T) []string {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) < 5 {
		t.Fatalf("threads %v, error %v", tasks, err)
	}
	var lines []string
	for _, task := range tasks {
		status, err := os.ReadFile(task)
		if os.IsNotExist(err) {
			continue // a thread that has ended
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.SplitSeq(string(status), "\n") {
			name, _, _ := strings.Cut(line, ":")
			switch name {
			case "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb", "NoNewPrivs":
				lines = append(lines, line)
			}
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func TestLookupIdentity(t *testing.T) {
	if _, err := lookupIdentity("no-such-user-of-assay"); err == nil || !strings.Contains(err.Error(), "key user") {
		t.Errorf("error %v, want one that names the key", err)
	}
}

func TestHandOverRefusesLinks(t *testing.T) {
	need.Root(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(string) error{
		"symbolic": func(path string) error { return os.Symlink(outside, path) },
		"hard":     func(path string) error { return os.Link(outside, path) },
	} {
		t.Run(name, func(t *testing.T) {
			state := filepath.Join(filepath.Dir(outside), "state-"+name)
			if err := os.Mkdir(state, 0o700); err != nil {
				t.Fatal(err)
			}
			nobody, err := lookupIdentity("nobody")
			if err != nil {
				t.Fatal(err)
			}
			if err := handOver(state, nobody); err != nil {
				t.Fatalf("without the link: %v", err)
			}
			if err := plant(filepath.Join(state, "ak.json")); err != nil {
				t.Fatal(err)
			}
			if err := handOver(state, nobody); err == nil || !strings.Contains(err.Error(), "ak.json") {
				t.Errorf("error %v, want one that names the link", err)
			}
			info, err := os.Lstat(outside)
			if err != nil {
				t.Fatal(err)
			}
			if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 {
				t.Errorf("the linked file belongs to %d now", owner)
			}
		})
	}
}
