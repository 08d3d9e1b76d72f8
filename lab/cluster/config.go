package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/assay-project/assay/lab"
)

// firstNode is the node with the control plane.
const firstNode = "node1"

// Config says what cluster to make. The zero value of each field but Dir is a sensible one.
type Config struct {
	// Dir is the cluster's folder. It must not exist, or be empty; Down removes it. Folder gives the command line program's.
	Dir string
	// Build says where the programs come from.
	Build BuildConfig
	// Workers join the first node, node1, one after the other. More can be added later.
	Workers []Worker
	// Images are files with OCI layouts as tar archives (WriteImage), which every node gets before Up returns.
	Images []string
	// Program is what supervisors and nodes run: this program by default. Its main must end in Supervise, RunNode and lab.Supervise for the command
	// lines `lab cluster supervise`, `lab cluster node` and `lab supervise`, as assay's does, or call RunSupervisor first.
	Program string
	// Progress is told what is being done, for people; may be nil.
	Progress func(string)
	// Now is time.Now by default.
	Now func() time.Time
}

// A Worker is a further node.
type Worker struct {
	// Name is the node's, a DNS label.
	Name string
	Kind Kind
	// Machine tells of a lab machine what goes beyond the cluster's needs; Dir, Supervisor, Services, Modules and Taps are the cluster's to
	// fill, which adds to the latter three. MemoryMiB is 1280 by default.
	Machine lab.Config
}

// Kind is what a worker is made of.
type Kind string

// The kinds of workers.
const (
	// Native is a set of namespaces on the host's kernel, without a TPM.
	Native Kind = "native"
	// Machine is a lab machine: a kernel of its own with IMA, and a TPM.
	Machine Kind = "machine"
)

const machineMemoryMiB = 1280

var nodeName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)

// withDefaults fills the empty fields and reports every mistake at once.
func (c Config) withDefaults() (Config, error) {
	var mistakes []error
	mistake := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		mistake("no folder for the cluster")
	} else if abs, err := filepath.Abs(c.Dir); err != nil {
		mistake("folder %s: %w", c.Dir, err)
	} else {
		c.Dir = abs
	}
	if c.Progress == nil {
		c.Progress = func(string) {}
	}
	if c.Build.Progress == nil {
		c.Build.Progress = c.Progress
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Program == "" {
		self, err := os.Executable()
		if err != nil {
			mistake("find this program: %w", err)
		}
		c.Program = self
	}
	names := map[string]bool{firstNode: true}
	for _, w := range c.Workers {
		if err := w.check(); err != nil {
			mistake("%w", err)
		}
		if names[w.Name] {
			mistake("worker %s: there is another node of this name", w.Name)
		}
		names[w.Name] = true
	}
	for _, image := range c.Images {
		if _, err := os.Stat(image); err != nil {
			mistake("image: %w", err)
		}
	}
	return c, errors.Join(mistakes...)
}

func (w Worker) check() error {
	if !nodeName.MatchString(w.Name) {
		return fmt.Errorf("worker %q: want a name of lower-case letters, digits and dashes, at most 40", w.Name)
	}
	if w.Kind != Native && w.Kind != Machine {
		return fmt.Errorf("worker %s: kind %q: want %s or %s", w.Name, w.Kind, Native, Machine)
	}
	return nil
}

// ErrNotRoot says that namespaces and cgroups need root.
var ErrNotRoot = errors.New("a cluster needs root, for namespaces and cgroups")

// Missing returns what the host lacks to make a cluster.
func Missing() []lab.Requirement {
	var missing []lab.Requirement
	for _, r := range []lab.Requirement{
		{Name: "runc", Package: "runc"}, {Name: "iptables", Package: "iptables"}, {Name: "ip", Package: "iproute2"}, {Name: "nsenter", Package: "util-linux"},
		{Name: "swtpm", Package: "swtpm"}, {Name: "swtpm_setup", Package: "swtpm-tools"}, {Name: hostPlugins + "/bridge", Package: "containernetworking-plugins"},
		{Name: "mount", Package: "mount"},
	} {
		if _, err := exec.LookPath(r.Name); err != nil {
			missing = append(missing, r)
		}
	}
	return missing
}

// checkHost refuses a host that cannot run a cluster, naming everything that is missing.
func checkHost() error {
	var all []error
	if os.Geteuid() != 0 {
		all = append(all, ErrNotRoot)
	}
	for _, m := range Missing() {
		all = append(all, fmt.Errorf("%s: %w (Debian package %s)", m.Name, lab.ErrMissing, m.Package))
	}
	return errors.Join(all...)
}

// Folder is where the command line program's cluster lies, below the user's cache folder.
func Folder() (string, error) {
	cache, err := cacheFolder()
	return filepath.Join(cache, "up"), err
}

func cacheFolder() (string, error) {
	machines, err := lab.Folder("")
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(filepath.Clean(machines)), "cluster"), nil
}
