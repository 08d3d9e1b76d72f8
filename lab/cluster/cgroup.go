package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/lab/leash"
)

// A hierarchy is one of the host's cgroup trees.
type hierarchy struct {
	Mount string `json:"mount"` // where the host has it
	Root  string `json:"root"`  // which of its groups is mounted there
	// Options are the controllers or the name of a version 1 hierarchy, as mount wants them; empty for version 2.
	Options string `json:"options,omitempty"`
	// Group is the node's group below Mount.
	Group string `json:"group"`
}

// unified reports whether this is version 2.
func (h hierarchy) unified() bool { return h.Options == "" }

func (h hierarchy) folder() string { return filepath.Join(h.Mount, h.Group) }

// cgroupDir is the folder that every program looks for cgroups in.
const cgroupDir = "/sys/fs/cgroup"

// hierarchies finds the trees in which a node needs a group: all of version 1 where the host has controllers there, else the one of version 2. (A
// host may mount both, with the controllers in version 1: programs decide by what lies on /sys/fs/cgroup itself.)
func hierarchies(mountinfo, cgroup io.Reader, name string) ([]hierarchy, error) {
	mounts, err := cgroupMounts(mountinfo)
	if err != nil {
		return nil, err
	}
	own, err := ownGroups(cgroup)
	if err != nil {
		return nil, err
	}
	var found []hierarchy
	for _, h := range mounts {
		if h.Mount == cgroupDir && h.unified() {
			// Controllers are handed down only by groups without processes and by the root: so a sibling of our own group would not do.
			h.Group = name
			return []hierarchy{h}, nil
		}
		group, known := own[h.Options]
		if h.unified() || !known {
			continue
		}
		// Below our own group, so that whoever limits or watches this process has the node in it too.
		below, err := filepath.Rel(h.Root, group)
		if err != nil || strings.HasPrefix(below, "..") {
			return nil, fmt.Errorf("cgroup %s of this process is not below %s, which is mounted on %s", group, h.Root, h.Mount)
		}
		h.Group = filepath.Join(below, name)
		found = append(found, h)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no cgroups are mounted on %s", cgroupDir)
	}
	return found, nil
}

// cgroupMounts reads the cgroup mounts from a /proc/PID/mountinfo (proc_pid_mountinfo(5)).
func cgroupMounts(mountinfo io.Reader) ([]hierarchy, error) {
	var found []hierarchy
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		left, right, ok := strings.Cut(lines.Text(), " - ")
		fields, tail := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 5 || len(tail) < 3 || !strings.HasPrefix(fields[4]+"/", cgroupDir+"/") {
			continue
		}
		h := hierarchy{Mount: fields[4], Root: fields[3]}
		switch tail[0] {
		case "cgroup":
			h.Options = controllers(tail[2])
		case "cgroup2":
		default:
			continue
		}
		found = append(found, h)
	}
	return found, lines.Err()
}

// controllers takes the controllers, or the name, out of the options of a version 1 mount.
func controllers(options string) string {
	general := []string{"rw", "ro", "noprefix", "xattr", "cpuset_v2_mode", "favordynmods", "clone_children"}
	kept := slices.DeleteFunc(strings.Split(options, ","), func(o string) bool {
		return slices.Contains(general, o) || strings.HasPrefix(o, "release_agent=")
	})
	slices.Sort(kept)
	return strings.Join(kept, ",")
}

// ownGroups reads which group of each version 1 hierarchy a process is in, from its /proc/PID/cgroup.
func ownGroups(cgroup io.Reader) (map[string]string, error) {
	groups := map[string]string{}
	lines := bufio.NewScanner(cgroup)
	for lines.Scan() {
		fields := strings.SplitN(lines.Text(), ":", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("line %q of the process's cgroups", lines.Text())
		}
		groups[controllers(fields[1])] = fields[2]
	}
	return groups, lines.Err()
}

// groupName is that of a node's group. The number is its cluster's.
func groupName(number, node string) string { return "assay-cluster" + number + "-" + node }

// groupsOf finds the groups of nodes of a cluster's number.
func groupsOf(number string) ([]string, error) {
	all, err := hostHierarchies(groupName(number, ""))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, h := range all {
		siblings, err := os.ReadDir(filepath.Dir(h.folder()))
		if err != nil {
			return nil, fmt.Errorf("find cgroups: %w", err)
		}
		for _, entry := range siblings {
			if strings.HasPrefix(entry.Name(), filepath.Base(h.folder())) {
				found = append(found, filepath.Join(filepath.Dir(h.folder()), entry.Name()))
			}
		}
	}
	return found, nil
}

// hostHierarchies is hierarchies of this process.
func hostHierarchies(name string) ([]hierarchy, error) {
	mountinfo, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer mountinfo.Close()
	cgroup, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer cgroup.Close()
	return hierarchies(mountinfo, cgroup, name)
}

// create makes the node's group.
func (h hierarchy) create() error {
	if h.unified() {
		if err := handDown(h.Mount); err != nil {
			return err
		}
	}
	if err := os.Mkdir(h.folder(), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if !slices.Contains(strings.Split(h.Options, ","), "cpuset") {
		return nil
	}
	// A new cpuset of version 1 has no CPU and no memory, and takes no process.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(h.folder()), file))
		if err != nil {
			return fmt.Errorf("make cpuset: %w", err)
		}
		if err := os.WriteFile(filepath.Join(h.folder(), file), value, 0o644); err != nil {
			return fmt.Errorf("make cpuset: %w", err)
		}
	}
	return nil
}

// enter puts a process into the node's group.
func (h hierarchy) enter(pid int) error {
	err := os.WriteFile(filepath.Join(h.folder(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
	if err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	return nil
}

// cgroupPatience is how long the kernel may take to empty a node's groups after its processes were killed. One that writes to a slow disk, or
// unmounts what is written there, ends when that is done.
const cgroupPatience = 2 * time.Minute

// remove takes the node's group away with all groups in it, waiting until the deadline for the last processes to be gone.
func (h hierarchy) remove(deadline time.Time) error {
	for ; ; time.Sleep(50 * time.Millisecond) {
		err := removeGroups(h.folder())
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w: %s", h.folder(), err, h.members())
		}
	}
}

// describedMembers bounds what an error says about a group.
const describedMembers = 3

// members describes processes in the node's group and those below it, for people.
func (h hierarchy) members() string {
	pids := processesIn(h.folder())
	if len(pids) == 0 {
		return "it has no processes"
	}
	var found []string
	for _, pid := range pids[:min(len(pids), describedMembers)] {
		found = append(found, leash.Describe(pid))
	}
	return strings.Join(found, "; ")
}

// processesIn finds the processes in a group and in those below it, which may come and go meanwhile.
func processesIn(group string) []int {
	var found []int
	filepath.WalkDir(group, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "cgroup.procs" {
			return nil
		}
		pids, _ := os.ReadFile(path) // the group may be gone
		for pid := range strings.FieldsSeq(string(pids)) {
			if number, err := strconv.Atoi(pid); err == nil {
				found = append(found, number)
			}
		}
		return nil
	})
	return found
}

// removeGroups removes a group and those below it. Their files are the kernel's: only folders can be removed.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeGroups(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return syscall.Rmdir(dir)
}

// mountCgroups gives a node, inside its namespaces, the hierarchies with its own group as their root.
func mountCgroups(all []hierarchy) error {
	if all[0].unified() {
		return mountUnified()
	}
	if err := unix.Mount("tmpfs", cgroupDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", cgroupDir, err)
	}
	for _, h := range all {
		if err := os.MkdirAll(h.Mount, 0o755); err != nil {
			return fmt.Errorf("mount cgroup: %w", err)
		}
		options := h.Options
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := unix.Mount("cgroup", h.Mount, "cgroup", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("mount cgroup %s on %s: %w", h.Options, h.Mount, err)
		}
	}
	return nil
}

// mountUnified also moves this process out of the way: a group that hands controllers down may hold none.
func mountUnified() error {
	if err := unix.Mount("cgroup2", cgroupDir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount cgroup2 on %s: %w", cgroupDir, err)
	}
	daemons := hierarchy{Mount: cgroupDir, Group: "daemons"}
	if err := os.Mkdir(daemons.folder(), 0o755); err != nil {
		return fmt.Errorf("make cgroup: %w", err)
	}
	if err := daemons.enter(os.Getpid()); err != nil {
		return err
	}
	return handDown(cgroupDir)
}

// handDown lets the groups below a version 2 group have all controllers that it has itself.
func handDown(group string) error {
	have, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	for name := range strings.FieldsSeq(string(have)) {
		if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+name), 0o644); err != nil {
			return fmt.Errorf("hand controller %s down: %w", name, err)
		}
	}
	return nil
}
