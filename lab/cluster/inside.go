package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// Where a native node finds its own things, inside its namespaces.
const (
	insideDir = "/run/assay"
	confName  = "conf"
	// TPMDir holds the sockets of a native node's TPM: tpm.sock takes commands. A pod gets at it by a hostPath volume.
	TPMDir = "/run/swtpm"
)

// A nodeSpec is what a native node is. It stands in the node's folder on the host.
type nodeSpec struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Gateway string `json:"gateway"`
	// Link is the name of the first node's end of the pair that leads to this one.
	Link        string          `json:"link,omitempty"`
	Hierarchies []hierarchy     `json:"hierarchies"`
	Binds       []bind          `json:"binds"`
	Services    []guest.Service `json:"services"`
	// TPM says that the supervisor runs a TPM emulator for this node.
	TPM bool `json:"tpm"`
	// Router says that this node is the way of all others to the host.
	Router bool `json:"router"`
}

// A bind shows a folder or a file of the host at another place inside the node.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// kernelWishes are the settings of the whole kernel that a kubelet wants to see, and would otherwise set. The node sees files of its own there.
var kernelWishes = map[string]string{
	"/proc/sys/vm/overcommit_memory": "1", "/proc/sys/vm/panic_on_oom": "0", "/proc/sys/kernel/panic": "10", "/proc/sys/kernel/panic_on_oops": "1",
	"/proc/sys/kernel/keys/root_maxkeys": "1000000", "/proc/sys/kernel/keys/root_maxbytes": "25000000",
}

// The stages of a node's first process: enter its cgroup namespace, become init, keep the services.
const (
	stageEnter = "enter"
	stageInit  = "init"
	stageServe = "serve"
)

// RunNode is a stage of the first process of a native node, which a supervisor starts. It returns only with an error.
func RunNode(folder, stage string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch stage {
	case stageEnter:
		return enterNode(folder)
	case stageInit:
		return initNode(folder)
	case stageServe:
		return serveNode(folder, log)
	}
	return fmt.Errorf("node %s: no stage %q", folder, stage)
}

// enterNode waits until the supervisor has put this process into the node's cgroups and given it a network, and makes those cgroups the root of what
// the node sees. Namespaces belong to threads: the thread that made this one goes on as the only one.
func enterNode(folder string) error {
	runtime.LockOSThread()
	// Set again, because it belongs to a thread too. A supervisor that died before this line has closed the pipe.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("enter node: %w", err)
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("enter node: the supervisor is gone: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter node: cgroup namespace: %w", err)
	}
	// /proc is still the host's, where this process has another number.
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("enter node: %w", err)
	}
	return syscall.Exec(self, append(nodeCommand(self), folder, stageInit), os.Environ())
}

// initNode is process 1 of the node: it makes the node's file systems and network, starts the process that keeps the services and buries what is
// orphaned. When it ends, the kernel ends the node.
func initNode(folder string) error {
	var spec nodeSpec
	if err := durable.ReadJSON(filepath.Join(folder, nodeFile), &spec); err != nil {
		return err
	}
	self, err := spec.mount()
	if err != nil {
		return fmt.Errorf("node %s: %w", spec.Name, err)
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("node %s: set host name: %w", spec.Name, err)
	}
	if err := spec.raiseNetwork(); err != nil {
		return fmt.Errorf("node %s: %w", spec.Name, err)
	}
	server, err := syscall.ForkExec(self, append(nodeCommand(self), insideDir, stageServe), &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("node %s: start the keeper of services: %w", spec.Name, err)
	}
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		switch {
		case pid == server:
			return fmt.Errorf("node %s: the keeper of services ended", spec.Name)
		case err != nil && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("node %s: wait: %w", spec.Name, err)
		}
	}
}

// mount makes what the node sees and returns this program's path there. What is covered by a mount was opened before it.
func (s nodeSpec) mount() (self string, err error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make mounts private: %w", err)
	}
	const strict = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, kind := range []string{"proc", "sysfs"} {
		target := map[string]string{"proc": "/proc", "sysfs": "/sys"}[kind]
		if err := unix.Mount(kind, target, kind, strict, ""); err != nil {
			return "", fmt.Errorf("mount %s: %w", kind, err)
		}
	}
	if err := mountCgroups(s.Hierarchies); err != nil {
		return "", err
	}
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	self = filepath.Join(insideDir, "node")
	place, err := openBinds(append(s.Binds, bind{From: program, To: self}))
	if err != nil {
		return "", err
	}
	for _, dir := range []string{"/run", "/tmp"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return "", fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	if err := os.Chmod("/tmp", 0o777|fs.ModeSticky); err != nil {
		return "", err
	}
	if err := place(); err != nil {
		return "", err
	}
	if err := coverKernelSettings(); err != nil {
		return "", err
	}
	// Volumes with mount propagation need a shared root.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return "", fmt.Errorf("make mounts shared: %w", err)
	}
	return self, nil
}

// openBinds opens the sources of binds and returns what mounts them.
func openBinds(binds []bind) (place func() error, err error) {
	var sources []*os.File
	for _, b := range binds {
		f, err := os.OpenFile(b.From, unix.O_PATH, 0)
		if err != nil {
			return nil, fmt.Errorf("bind %s: %w", b.To, err)
		}
		sources = append(sources, f)
	}
	return func() error {
		for i, b := range binds {
			if err := bindMount(sources[i], b.To); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// bindMount mounts an open file or folder, and closes it. Its place is made below the node's own file systems, and must be there elsewhere.
func bindMount(source *os.File, target string) error {
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	if strings.HasPrefix(target, "/run/") {
		if err := makePlace(target, info.IsDir()); err != nil {
			return fmt.Errorf("bind %s: %w", target, err)
		}
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(source.Fd())), target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", target, err)
	}
	return nil
}

func makePlace(path string, folder bool) error {
	if folder {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o755)
}

func coverKernelSettings() error {
	folder := filepath.Join(insideDir, "sysctl")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for path, value := range kernelWishes {
		own := filepath.Join(folder, strings.ReplaceAll(path[1:], "/", "."))
		if err := os.WriteFile(own, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cover %s: %w", path, err)
		}
	}
	return nil
}

func (s nodeSpec) raiseNetwork() error {
	commands := [][]string{
		{"ip", "link", "set", "lo", "up"},
		{"ip", "address", "add", s.Address + "/24", "dev", nodeCard},
		{"ip", "link", "set", nodeCard, "up"},
		{"ip", "route", "add", "default", "via", s.Gateway},
	}
	if s.Router {
		// The host knows this node's address only, so everything that leaves bears it.
		commands = append(commands, []string{"iptables", "-t", "nat", "-A", "POSTROUTING", "-o", nodeCard, "-j", "MASQUERADE"})
	}
	for _, c := range commands {
		if err := runTool(context.Background(), c...); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("forward packets: %w", err)
	}
	return nil
}

// What the keeper of a native node's services is asked.
const (
	askReady   = "ready"
	askRestart = "restart"
	askPause   = "stop"
	askGoOn    = "start"
)

// serveNode keeps the services and does what it is asked, over a socket in folder.
func serveNode(folder string, log *slog.Logger) error {
	var spec nodeSpec
	if err := durable.ReadJSON(filepath.Join(folder, nodeFile), &spec); err != nil {
		return err
	}
	l, err := leash.Listen(filepath.Join(folder, confName))
	if err != nil {
		return err
	}
	keeper := newKeeper(spec.Services, log)
	for q := range l.Questions {
		q.Reply("", keeper.do(q.Ask, q.Arg))
	}
	return nil
}

// A keeper runs services that can be stopped and started one by one.
type keeper struct {
	services map[string]guest.Service
	stop     map[string]func() // ends a running one and waits
	log      *slog.Logger
}

func newKeeper(services []guest.Service, log *slog.Logger) *keeper {
	k := &keeper{services: map[string]guest.Service{}, stop: map[string]func(){}, log: log}
	for _, s := range services {
		k.services[s.Name] = s
		k.start(s.Name)
	}
	return k
}

func (k *keeper) start(name string) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { guest.Keep(ctx, k.services[name], k.log) })
	k.stop[name] = func() { cancel(); running.Wait() }
}

func (k *keeper) do(what, name string) error {
	if what == askReady {
		return nil
	}
	if _, known := k.services[name]; !known {
		return fmt.Errorf("no service %q", name)
	}
	if what != askRestart && what != askPause && what != askGoOn {
		return fmt.Errorf("unknown request %q", what)
	}
	if stop := k.stop[name]; stop != nil && what != askGoOn {
		stop()
		delete(k.stop, name)
	}
	if k.stop[name] == nil && what != askPause {
		k.start(name)
	}
	return nil
}

// runTool runs a program to its end. Its error ends with what the program had to say.
func runTool(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, host.LastLines(string(out), 4))
	}
	return nil
}
