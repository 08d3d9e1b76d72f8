// Package traces holds a host against what it was before: lab clusters, lab machines and programs that have them may leave processes, mounts, network
// interfaces, cgroups, files and settings of the kernel behind, and tests that make such things look for them afterwards.
//
// Others use the host meanwhile. So what is gone since counts for nothing, and of the processes count only those that have the test's folder on their
// command line, or that are in a PID namespace of such a one. What somebody else adds meanwhile is taken for the test's own: hold the lab's one place.
package traces

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Patience is how long the kernel may need to clean up after killed processes. One that waits for a slow disk ends when that has written.
const Patience = 3 * time.Minute

// A Host is a host as it was before something was made in a folder.
type Host struct {
	folder string
	before state
	spaces []*os.File // see Follow
}

// state is what may be left, but for processes.
type state struct {
	Mounts, Links, Cgroups, Files []string
	Settings                      map[string]string
}

// Before looks at the host before anything is made in folder, which NothingLeft wants to be gone.
func Before(t testing.TB, folder string) *Host {
	t.Helper()
	seen, err := look()
	if err != nil {
		t.Fatal(err)
	}
	return &Host{folder: folder, before: seen}
}

// NothingLeft waits until nothing is left, and fails the test when that takes longer than Patience.
func (h *Host) NothingLeft(t testing.TB) {
	t.Helper()
	await(t, h.left)
}

// await repeats a question until it has no answer against it.
func await(t testing.TB, question func() error) {
	t.Helper()
	for end := time.Now().Add(Patience); ; time.Sleep(100 * time.Millisecond) {
		err := question()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", Patience, err)
		}
	}
}

// left says what is left of the folder's processes and of everything else.
func (h *Host) left() error {
	var found []error
	for _, p := range h.processes() {
		found = append(found, fmt.Errorf("left running: %s", p))
	}
	if _, err := os.Stat(h.folder); !errors.Is(err, fs.ErrNotExist) {
		found = append(found, fmt.Errorf("the folder %s is there: %v", h.folder, err))
	}
	after, err := look()
	if err != nil {
		return err
	}
	if diff := cmp.Diff(state{Settings: h.before.Settings}, after.beyond(h.before)); diff != "" {
		found = append(found, fmt.Errorf("left on the host, or set (-before +after):\n%s", diff))
	}
	return errors.Join(found...)
}

// places are where files may be left.
func places() []string {
	return []string{"/var/lib/*", "/var/log/*", "/opt/*", "/etc/*", "/usr/libexec/*", "/run/*", "/run/netns/*", "/tmp/cni*", "/dev/*"}
}

// settings are those of the kernel that parts of Kubernetes would change.
func settings() []string {
	return []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
		"net/ipv4/ip_forward",
	}
}

func look() (state, error) {
	seen := state{Settings: map[string]string{}}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return seen, err
	}
	seen.Mounts = slices.Sorted(strings.Lines(string(mounts)))
	links, err := net.Interfaces()
	if err != nil {
		return seen, err
	}
	for _, l := range links {
		seen.Links = append(seen.Links, l.Name)
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.HasPrefix(entry.Name(), "assay-cluster") {
			seen.Cgroups = append(seen.Cgroups, path)
		}
		return nil // groups of others come and go
	})
	if err != nil {
		return seen, err
	}
	for _, pattern := range places() {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return seen, err
		}
		seen.Files = append(seen.Files, found...)
	}
	for _, path := range settings() {
		value, err := os.ReadFile("/proc/sys/" + path)
		if err != nil {
			return seen, err
		}
		seen.Settings[path] = string(value)
	}
	return seen, nil
}

// beyond is what there is and was not before.
func (after state) beyond(before state) state {
	isNew := func(all, known []string) (found []string) {
		for _, one := range all {
			if !slices.Contains(known, one) {
				found = append(found, one)
			}
		}
		return found
	}
	return state{
		Mounts: isNew(after.Mounts, before.Mounts), Links: isNew(after.Links, before.Links), Cgroups: isNew(after.Cgroups, before.Cgroups),
		Files: isNew(after.Files, before.Files), Settings: after.Settings,
	}
}
