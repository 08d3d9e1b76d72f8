package traces

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/lab/leash"
)

// Follow takes note of the PID namespaces of the processes that have the folder on their command line: whatever runs in one counts from now on, even
// when it has ended as far as its command line and its mounts tell and waits in the kernel. They stay open until the test ends, because the kernel
// gives the number of a namespace that is gone to the next one.
func (h *Host) Follow(t testing.TB) {
	t.Helper()
	own, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all() {
		if !p.names(h.folder) {
			continue
		}
		f, err := os.Open(p.namespace())
		if err != nil {
			continue // it has ended
		}
		t.Cleanup(func() { f.Close() })
		if info, err := f.Stat(); err == nil && !os.SameFile(info, own) {
			h.spaces = append(h.spaces, f)
		}
	}
	if len(h.spaces) == 0 {
		t.Fatalf("no process of %s has a PID namespace of its own: is this the right folder?", h.folder)
	}
}

// NothingRuns waits until no process is in a namespace that is followed.
func (h *Host) NothingRuns(t testing.TB) {
	t.Helper()
	await(t, func() error {
		for _, p := range all() {
			if h.follows(p) {
				return fmt.Errorf("left running: %s", p)
			}
		}
		return nil
	})
}

// processes are those of the folder and of the namespaces that are followed.
func (h *Host) processes() []process {
	return slices.DeleteFunc(all(), func(p process) bool { return !p.names(h.folder) && !h.follows(p) })
}

// follows reports whether a process is in a namespace that is followed, or in one below it, as those of containers are.
func (h *Host) follows(p process) bool {
	space, err := os.Open(p.namespace())
	for err == nil {
		var info os.FileInfo
		if info, err = space.Stat(); err == nil && slices.ContainsFunc(h.spaces, func(f *os.File) bool { return same(f, info) }) {
			space.Close()
			return true
		}
		parent, problem := unix.IoctlRetInt(int(space.Fd()), unix.NS_GET_PARENT) // refused above our own
		space.Close()
		if problem != nil {
			return false
		}
		space = os.NewFile(uintptr(parent), "parent")
	}
	return false
}

func same(f *os.File, info os.FileInfo) bool {
	known, err := f.Stat()
	return err == nil && os.SameFile(known, info)
}

// A process is known by its number.
type process int

// all are all but this one.
func all() []process {
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var found []process
	for _, folder := range folders {
		if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil && pid != os.Getpid() {
			found = append(found, process(pid))
		}
	}
	return found
}

func (p process) namespace() string { return fmt.Sprintf("/proc/%d/ns/pid", int(p)) }

func (p process) commandLine() string {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", int(p)))
	if err != nil {
		return ""
	}
	return string(line)
}

func (p process) names(folder string) bool { return strings.Contains(p.commandLine(), folder) }

// String is what one needs to know of a process that should have ended.
func (p process) String() string {
	return fmt.Sprintf("%s: %q", leash.Describe(int(p)), p.commandLine())
}
