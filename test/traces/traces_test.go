package traces

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
)

// tells asks what is left until the answer has all the words.
func tells(t *testing.T, h *Host, words ...string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		answer := fmt.Sprint(h.left())
		missing := ""
		for _, word := range words {
			if !strings.Contains(answer, word) {
				missing = word
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nothing is said about %q, but:\n%s", missing, answer)
		}
	}
}

// start runs a shell in a PID namespace of its own; a folder is an argument that it does nothing with.
func start(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	return cmd
}

func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

// TestProcesses: a process counts by its command line and by its namespace, also when it has made one below that.
func TestProcesses(t *testing.T) {
	need.Root(t)
	need.Program(t, "util-linux", "unshare")
	folder := filepath.Join(t.TempDir(), "made")
	h := Before(t, folder)
	shell := start(t, "unshare --pid --fork sleep 601; :", folder)
	tells(t, h, "(sh) in /", " S ", folder)
	h.Follow(t)
	tells(t, h, "(sleep) in /", `"sleep\x00601\x00"`)
	end(shell)
	h.NothingRuns(t)
	if left := h.processes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	// The kernel gives the next namespace the smallest number that is free.
	for range 3 {
		start(t, "sleep 602; :")
	}
	time.Sleep(200 * time.Millisecond)
	if left := h.processes(); len(left) > 0 {
		t.Errorf("processes of somebody else's are taken for the test's: %v", left)
	}
}

// TestThings: each kind of thing is told of while it is there. Other tests may make things of their own meanwhile.
func TestThings(t *testing.T) {
	need.Root(t)
	need.Program(t, "iproute2", "ip")
	folder, place := filepath.Join(t.TempDir(), "made"), t.TempDir()
	h := Before(t, folder)
	name := fmt.Sprintf("traces%d", os.Getpid())
	for _, c := range []struct {
		make, remove []string
		want         string
	}{
		{[]string{"mkdir", folder}, []string{"rmdir", folder}, "the folder " + folder + " is there"},
		{[]string{"touch", "/run/" + name}, []string{"rm", "/run/" + name}, "/run/" + name},
		{[]string{"ip", "link", "add", name, "type", "veth"}, []string{"ip", "link", "delete", name}, name},
		{[]string{"mount", "-t", "tmpfs", name, place}, []string{"umount", place}, name + " " + place},
	} {
		run(t, c.make)
		tells(t, h, c.want)
		run(t, c.remove)
		if answer := fmt.Sprint(h.left()); strings.Contains(answer, c.want) {
			t.Errorf("after %v: %s", c.remove, answer)
		}
	}
	h.before.Settings["kernel/panic"] = "another"
	tells(t, h, "kernel/panic", "another")
}

func run(t *testing.T, args []string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}
