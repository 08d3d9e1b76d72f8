package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// Names in a cluster's folder, and below its nodes' folders.
const (
	specFile       = "cluster.json"
	runFile        = "run.json"
	kubeconfigFile = "kubeconfig"
	supervisorLog  = "supervisor.log"
	pkiDir         = "pki"
	nodesDir       = "nodes"
	machinesDir    = "machines"
	imagesDir      = "images"
	nodeFile       = "conf/node.json"
	initLog        = "init.log"
	tpmStateDir    = "tpm"
	tpmSocketDir   = "swtpm"
	tpmCADir       = "ca"
)

// nodeCard is a native node's only network card.
const nodeCard = "eth0"

const tpmPatience = time.Minute

// What a cluster's supervisor is asked.
const (
	askLink = "link"
	askNode = "node"
	askDown = "down"
)

// superviseCommand and nodeCommand are the command lines that end in Supervise and RunNode.
func superviseCommand(program string) []string {
	return []string{program, "lab", "cluster", "supervise"}
}
func nodeCommand(program string) []string { return []string{program, "lab", "cluster", "node"} }

// RunSupervisor makes this process a supervisor, or the first process of a node, and does not return, if it was started as one. A test binary
// whose tests call Up calls it first in TestMain; the command line program calls Supervise and RunNode from its own parser.
func RunSupervisor() {
	lab.RunSupervisor()
	var err error
	switch args := os.Args; {
	case len(args) == 5 && slices.Equal(args[1:4], superviseCommand("")[1:]):
		err = Supervise(args[4])
	case len(args) == 6 && slices.Equal(args[1:4], nodeCommand("")[1:]):
		err = RunNode(args[4], args[5])
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// running is what Down looks after when the supervisor cannot any more. swtpm is not in it: the kernel ends it with the supervisor.
type running struct {
	Supervisor leash.Process           `json:"supervisor"`
	Link       string                  `json:"link,omitempty"`
	Nodes      map[string]*runningNode `json:"nodes"`
}

type runningNode struct {
	Init        leash.Process `json:"init"`
	Hierarchies []hierarchy   `json:"hierarchies"`

	leash io.Closer     // init's stdin
	ended chan struct{} // closed when init is gone
	tpm   *swtpm.Emulator
}

// A supervisor owns the native nodes of a cluster. Everything in it happens in the one goroutine of Supervise.
type supervisor struct {
	folder string
	log    *slog.Logger
	run    running
}

// Supervise holds the native nodes of the cluster in a folder that Up has made, until it is asked to end them, gets SIGTERM, or finds its stdin
// closed without having been detached, which is how it learns of its parent's death. Then it removes the folder.
func Supervise(folder string) error {
	// The kernel kills nodes and emulators when the thread that started them ends: this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := leash.Identify(os.Getpid())
	if err != nil {
		return err
	}
	l, err := leash.Listen(folder)
	if err != nil {
		return err
	}
	s := &supervisor{folder: folder, log: slog.New(slog.NewTextHandler(os.Stderr, nil)), run: running{Supervisor: self, Nodes: map[string]*runningNode{}}}
	if err := s.record(); err != nil {
		return errors.Join(err, l.Close())
	}
	asker := l.Serve(askDown, s.answer)
	err = errors.Join(s.run.end(), removeFolder(folder))
	if asker != nil {
		asker.Reply("", err)
	}
	return errors.Join(err, l.Close())
}

func (s *supervisor) answer(r leash.Request) (text string, err error) {
	switch r.Ask {
	case askLink:
		text, err = s.makeLink()
	case askNode:
		err = s.startNode(r.Arg)
	default:
		err = fmt.Errorf("unknown request %q", r.Ask)
	}
	if err != nil {
		s.log.Error(r.Ask, "arg", r.Arg, "err", err)
	}
	return text, err
}

// maxLinks bounds how many clusters a host has at a time.
const maxLinks = 250

// makeLink makes the pair of interfaces between the host and the first node. Its number is what tells this cluster's addresses and cgroups from those
// of others. The number is free when neither the pair nor such a cgroup exists: the kernel removes the pair of a cluster whose supervisor was killed, and
// the cgroups stay until it is taken Down.
func (s *supervisor) makeLink() (number string, err error) {
	var refusal error
	for n := 1; n <= maxLinks; n++ {
		number, name := strconv.Itoa(n), "assay"+strconv.Itoa(n)
		if refusal = runTool(context.Background(), "ip", "link", "add", name, "type", "veth", "peer", "name", name+"p"); refusal != nil {
			continue
		}
		groups, err := groupsOf(number)
		if err != nil {
			return "", errors.Join(err, removeLink(name))
		}
		if len(groups) > 0 {
			refusal = fmt.Errorf("another cluster has left cgroup %s", groups[0])
			s.log.Warn("number passed over", "number", number, "err", refusal)
			if err := removeLink(name); err != nil {
				return "", err
			}
			continue
		}
		s.run.Link = name
		if err := s.record(); err != nil {
			return "", err
		}
		return number, errors.Join(
			runTool(context.Background(), "ip", "address", "add", hostAddress(number)+"/24", "dev", name),
			runTool(context.Background(), "ip", "link", "set", name, "up"))
	}
	return "", fmt.Errorf("no number is free for the link to the host: %w", refusal)
}

// startNode starts a native node whose folder is ready.
func (s *supervisor) startNode(name string) error {
	folder := filepath.Join(s.folder, nodesDir, name)
	var spec nodeSpec
	if err := durable.ReadJSON(filepath.Join(folder, nodeFile), &spec); err != nil {
		return err
	}
	if s.run.Nodes[name] != nil {
		return fmt.Errorf("node %s exists", name)
	}
	node := &runningNode{Hierarchies: spec.Hierarchies}
	s.run.Nodes[name] = node
	if err := s.record(); err != nil {
		return err
	}
	for _, h := range spec.Hierarchies {
		if err := h.create(); err != nil {
			return err
		}
	}
	if spec.TPM {
		if err := node.startTPM(folder); err != nil {
			return err
		}
	}
	return s.startInit(node, spec, folder)
}

// startTPM runs the emulator of a node. Its socket's path goes through an open descriptor, for a short one.
func (n *runningNode) startTPM(folder string) error {
	dir, err := os.Open(filepath.Join(folder, tpmSocketDir))
	if err != nil {
		return fmt.Errorf("TPM: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	sockets := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd())
	n.tpm, err = swtpm.Start(ctx, swtpm.Config{StateDir: filepath.Join(folder, tpmStateDir), SocketDir: sockets})
	if err != nil {
		return errors.Join(err, dir.Close())
	}
	go func() { // the descriptor is what the path goes through
		<-n.tpm.Ended()
		dir.Close()
	}()
	return nil
}

// startInit starts the node's first process, and lets it go on once it is in its cgroups and has its network card.
func (s *supervisor) startInit(node *runningNode, spec nodeSpec, folder string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(folder, initLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	defer log.Close()
	command := append(nodeCommand(self), folder, stageEnter)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL, Setsid: true,
	}
	leash, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	node.leash, node.ended = leash, make(chan struct{})
	go func() {
		cmd.Wait() // how it ended stands in its log
		close(node.ended)
	}()
	if err := s.introduce(node, spec, cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill())
	}
	if _, err := leash.Write([]byte{0}); err != nil {
		return fmt.Errorf("start node: it ended: %s", host.Tail(log.Name(), 3))
	}
	return nil
}

func (s *supervisor) introduce(node *runningNode, spec nodeSpec, pid int) (err error) {
	if node.Init, err = leash.Identify(pid); err != nil {
		return err
	}
	if err := s.record(); err != nil {
		return err
	}
	for _, h := range spec.Hierarchies {
		if err := h.enter(pid); err != nil {
			return err
		}
	}
	if spec.Router {
		return runTool(context.Background(), "ip", "link", "set", "dev", s.run.Link+"p", "netns", strconv.Itoa(pid), "name", nodeCard)
	}
	router := s.run.Nodes[firstNode]
	if router == nil {
		return fmt.Errorf("node %s is to be started after %s", spec.Name, firstNode)
	}
	return runTool(context.Background(), "nsenter", "--target", strconv.Itoa(router.Init.PID), "--net",
		"ip", "link", "add", spec.Link, "type", "veth", "peer", "name", nodeCard, "netns", strconv.Itoa(pid))
}

func (s *supervisor) record() error {
	return durable.WriteJSON(filepath.Join(s.folder, runFile), s.run, 0o600)
}

// end takes everything down that is in it, and reports what could not be.
func (r running) end() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.Nodes)) {
		n := r.Nodes[name]
		err := n.Init.Kill()
		errs = append(errs, err)
		if n.leash != nil {
			n.leash.Close()
		}
		if n.leash != nil && err == nil {
			<-n.ended
		}
		if n.tpm != nil {
			errs = append(errs, n.tpm.Stop())
		}
	}
	// The cgroups come last: with them the number is free, and a link of its name is somebody else's.
	errs = append(errs, removeLink(r.Link))
	deadline := time.Now().Add(cgroupPatience)
	for _, n := range r.Nodes {
		for _, h := range n.Hierarchies {
			errs = append(errs, h.remove(deadline))
		}
	}
	return errors.Join(errs...)
}

// removeLink removes the pair to the host. The kernel does so too, a moment after the namespace that one half was in, so a failure counts only while it is there.
func removeLink(name string) error {
	exists := func() bool {
		_, err := os.Stat("/sys/class/net/" + name)
		return err == nil
	}
	if name == "" || !exists() {
		return nil
	}
	if err := runTool(context.Background(), "ip", "link", "delete", name); err != nil && exists() {
		return err
	}
	return nil
}

// removeFolder leaves the machines alone: they have supervisors of their own, which remove their folders and may be at it.
func removeFolder(folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove folder: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if entry.Name() != machinesDir {
			errs = append(errs, os.RemoveAll(filepath.Join(folder, entry.Name())))
		}
	}
	machines := filepath.Join(folder, machinesDir)
	for end := time.Now().Add(machinePatience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if left, err := os.ReadDir(machines); err != nil || len(left) == 0 {
			break
		}
	}
	return errors.Join(append(errs, os.RemoveAll(folder))...)
}

// machinePatience is how long a cluster's end waits for the machines' own supervisors.
const machinePatience = 10 * time.Second
