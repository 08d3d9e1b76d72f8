package cluster

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

// traces are what a cluster may leave on a host.
type traces struct {
	Mounts, Links, Cgroups, Files []string
	Settings                      map[string]string
}

// look takes the host's state, but for processes: what else runs on it comes and goes.
func look(t *testing.T) traces {
	t.Helper()
	seen := traces{Settings: map[string]string{}}
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
	for _, pattern := range []string{"/var/lib/*", "/var/log/*", "/opt/*", "/etc/*", "/usr/libexec/*", "/run/*", "/tmp/cni*", "/dev/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		seen.Files = append(seen.Files, found...)
	}
	for _, path := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes", "net/ipv4/ip_forward",
	} {
		value, err := os.ReadFile("/proc/sys/" + path)
		if err != nil {
			t.Fatal(err)
		}
		seen.Settings[path] = string(value)
	}
	return seen
}

// beyond is what there is and was not before. What somebody else has taken away meanwhile does not matter.
func (after traces) beyond(before traces) traces {
	isNew := func(all, known []string) (found []string) {
		for _, one := range all {
			if !slices.Contains(known, one) {
				found = append(found, one)
			}
		}
		return found
	}
	return traces{
		Mounts: isNew(after.Mounts, before.Mounts), Links: isNew(after.Links, before.Links), Cgroups: isNew(after.Cgroups, before.Cgroups),
		Files: isNew(after.Files, before.Files), Settings: after.Settings,
	}
}

// nothingLeft holds the host against an earlier look, for as long as the kernel needs to clean up.
func nothingLeft(t *testing.T, before traces, folder string, namespaces []string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if diff := cmp.Diff(traces{Settings: before.Settings}, look(t).beyond(before)); diff != "" {
			return fmt.Errorf("left on the host, or set (-before +after):\n%s", diff)
		}
		if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("the folder %s is there: %v", folder, err)
		}
		return noProcess(folder, namespaces)
	})
}

// noProcess looks for a process that is in one of the mount namespaces or has the folder on its command line.
func noProcess(folder string, namespaces []string) error {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range processes {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || p == fmt.Sprintf("/proc/%d", os.Getpid()) {
			continue
		}
		namespace, _ := os.Readlink(filepath.Join(p, "ns/mnt"))
		if slices.Contains(namespaces, namespace) || strings.Contains(string(line), folder) {
			return fmt.Errorf("process %s is left: %q", p, line)
		}
	}
	return nil
}

// namespaces are the mount namespaces that processes of the cluster in folder have.
func namespaces(t *testing.T, folder string) []string {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range processes {
		line, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || !strings.Contains(string(line), folder) {
			continue
		}
		if namespace, err := os.Readlink(filepath.Join(p, "ns/mnt")); err == nil && namespace != own && !slices.Contains(found, namespace) {
			found = append(found, namespace)
		}
	}
	if len(found) == 0 {
		t.Fatal("no process of the cluster has a mount namespace of its own: is this the right folder?")
	}
	return found
}
