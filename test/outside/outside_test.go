package main

import (
	"context"
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

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

const checkout = "../.."

func TestMain(m *testing.M) {
	runMachine()
	os.Exit(m.Run())
}

// traces are what a run may leave on a host.
type traces struct{ Mounts, Links, Cgroups, Files, Processes []string }

// look takes the host's state. Processes count when they have folder on their command line or are in one of the namespaces: others come and go.
func look(t *testing.T, folder string, namespaces []string) traces {
	t.Helper()
	var seen traces
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	seen.Mounts = slices.Sorted(strings.Lines(string(mounts)))
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
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
		t.Fatal(err)
	}
	for _, pattern := range []string{folder, "/etc/*", "/run/*", "/run/netns/*", "/var/lib/*", "/var/log/*", "/opt/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		seen.Files = append(seen.Files, found...)
	}
	for _, p := range processes(t) {
		if strings.Contains(p.line, folder) || slices.ContainsFunc(p.namespaces, func(n string) bool { return slices.Contains(namespaces, n) }) {
			seen.Processes = append(seen.Processes, p.line)
		}
	}
	return seen
}

type process struct {
	line       string
	namespaces []string
}

// processes are all but this one.
func processes(t *testing.T) []process {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, folder := range folders {
		line, err := os.ReadFile(filepath.Join(folder, "cmdline"))
		if err != nil || folder == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		p := process{line: strings.ReplaceAll(string(line), "\x00", " ")}
		for _, kind := range []string{"net", "mnt"} {
			if name, err := os.Readlink(filepath.Join(folder, "ns", kind)); err == nil {
				p.namespaces = append(p.namespaces, name)
			}
		}
		all = append(all, p)
	}
	return all
}

// namespacesOf are those of the processes of a folder, but for this process's own.
func namespacesOf(t *testing.T, folder string) []string {
	t.Helper()
	var own, found []string
	for _, kind := range []string{"net", "mnt"} {
		name, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		own = append(own, name)
	}
	for _, p := range processes(t) {
		for _, name := range p.namespaces {
			if strings.Contains(p.line, folder) && !slices.Contains(own, name) && !slices.Contains(found, name) {
				found = append(found, name)
			}
		}
	}
	if len(found) == 0 {
		t.Fatalf("no process of %s is in namespaces of its own", folder)
	}
	return found
}

// nothingLeft compares the host with an earlier look, for as long as the kernel needs to clean up.
func nothingLeft(t *testing.T, before traces, folder string, namespaces []string) {
	t.Helper()
	isNew := func(all, known []string) (found []string) {
		for _, one := range all {
			if !slices.Contains(known, one) {
				found = append(found, one)
			}
		}
		return found
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		after := look(t, folder, namespaces)
		diff := cmp.Diff(traces{}, traces{
			isNew(after.Mounts, before.Mounts), isNew(after.Links, before.Links), isNew(after.Cgroups, before.Cgroups), isNew(after.Files, before.Files), after.Processes,
		})
		if diff == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left behind (-nothing +found):\n%s", diff)
		}
	}
}

// newTestPlace is a place with a folder that is not there yet.
func newTestPlace(t *testing.T) *place {
	t.Helper()
	folder, err := os.MkdirTemp("", "o-") // t.TempDir's paths are too long for some sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	p, err := newPlace(place{dir: filepath.Join(folder, "outside"), checkout: checkout, out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestOutside is the whole way, by the functions that the verbs of the make file call.
func TestOutside(t *testing.T) {
	need.Cluster(t)
	need.Program(t, "util-linux", "unshare", "nsenter")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	release, err := lab.Exclusive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	p := newTestPlace(t)
	before := look(t, p.dir, nil)
	if err := verify(ctx, p); !errors.Is(err, errNothingRuns) {
		t.Errorf("verify before run: %v", err)
	}
	defer func() {
		if err := clean(context.WithoutCancel(ctx), p); err != nil {
			t.Error(err)
		}
	}()
	if err := run(ctx, p); err != nil {
		t.Fatal(err)
	}
	namespaces := namespacesOf(t, p.dir)
	if err := run(ctx, p); err == nil || !strings.Contains(err.Error(), "it runs already") {
		t.Errorf("run twice: %v", err)
	}
	otherCache(t, ctx, p)
	if err := verify(ctx, p); err != nil {
		t.Fatal(err)
	}
	rightNamesDoNotFail(t, ctx, p)
	if err := clean(ctx, p); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, before, p.dir, namespaces)
}

// rightNamesDoNotFail is the twin of the swapped names: the same way with the right names finds nothing.
func rightNamesDoNotFail(t *testing.T, ctx context.Context, p *place) {
	t.Helper()
	w, err := findWorld(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // more than swapped names take to be found
	defer cancel()
	if err := w.mistaken(ctx, w.addresses()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `verdict "Trusted"`) {
		t.Errorf("with the right names: %v, want that both stay Trusted", err)
	}
}

// otherCache: realclean ends nobody's cluster, and removes the caches when there is none. The cache is one of this test's own.
func otherCache(t *testing.T, ctx context.Context, p *place) {
	t.Helper()
	base := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", base)
	up, err := cluster.Folder()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(up), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.clusterDir(), up); err != nil {
		t.Fatal(err)
	}
	other, err := newPlace(place{checkout: t.TempDir(), out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(other.checkout, ".cache")
	if err := os.Mkdir(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := realclean(ctx, other); !errors.Is(err, errInUse) || !strings.Contains(err.Error(), "assay lab cluster down") {
		t.Errorf("with a cluster in the cache: %v", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a refused realclean has removed something: %v", err)
	}
	if err := os.Remove(up); err != nil {
		t.Fatal(err)
	}
	if err := realclean(ctx, other); err != nil {
		t.Error(err)
	}
	for _, folder := range []string{filepath.Join(base, "assay"), kept} {
		if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("realclean left %s: %v", folder, err)
		}
	}
}
