package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// The link between the first node and the machine. It exists in their two namespaces only.
const (
	nodeLink      = "outside"
	machineLink   = "eth0"
	linkOfNode    = "10.97.0.1"
	machineHost   = "10.97.0.2"
	linkMask      = "/24"
	apiPort       = "8443"
	registrarPort = "8891"
)

// Files in the machine's folder.
const (
	hostsFile    = "hosts"
	serverConfig = "server.yaml"
	serverLog    = "server.log"
	keeperLog    = "machine.log"
	stateDir     = "server"
)

// What the machine's keeper is asked.
const (
	askWho     = "who"
	askRestart = "restart"
	askDown    = "down"
)

const (
	keeperPatience = 30 * time.Second
	serverPatience = 15 * time.Second
)

// runMachine makes this process the keeper of the machine and does not return, if it was started as one.
func runMachine() {
	if len(os.Args) != 3 || os.Args[1] != "machine" {
		return
	}
	if err := keep(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// keeper owns the machine: this process is in a network and a mount namespace of its own, and the server is its child. With it the namespaces
// end, and with these the link to the cluster.
type keeper struct {
	folder string
	server *exec.Cmd
	ended  chan struct{}
}

// keep holds the machine until it is asked to end it, gets SIGTERM, or finds that its parent died before it let go of it. Then it removes the folder.
func keep(folder string) error {
	runtime.LockOSThread() // the kernel kills the server when the thread that started it ends: this one stays
	defer runtime.UnlockOSThread()
	if err := unix.Mount(filepath.Join(folder, hostsFile), "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("machine: own hosts file: %w", err)
	}
	if _, err := host.RunTool(exec.Command("ip", "link", "set", "lo", "up")); err != nil {
		return fmt.Errorf("machine: %w", err)
	}
	l, err := leash.Listen(folder)
	if err != nil {
		return err
	}
	k := &keeper{folder: folder}
	asker := l.Serve(askDown, k.answer)
	err = errors.Join(k.stop(), os.RemoveAll(folder))
	if asker != nil {
		asker.Reply("", err)
	}
	return errors.Join(err, l.Close())
}

func (k *keeper) answer(r leash.Request) (string, error) {
	switch r.Ask {
	case askWho:
		return strconv.Itoa(os.Getpid()), nil
	case askRestart:
		return "", errors.Join(k.stop(), k.start(r.Arg))
	}
	return "", fmt.Errorf("unknown request %q", r.Ask)
}

// start runs the server. program is that of the command line, assay.
func (k *keeper) start(program string) error {
	log, err := os.OpenFile(filepath.Join(k.folder, serverLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(program, "server", "--config", filepath.Join(k.folder, serverConfig))
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", []string{"HOME=" + k.folder}, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	k.server, k.ended = cmd, make(chan struct{})
	go func(ended chan struct{}) {
		cmd.Wait() // how it ended stands in its log
		close(ended)
	}(k.ended)
	return nil
}

// stop asks the server to end, and makes it end when it does not.
func (k *keeper) stop() error {
	if k.server == nil {
		return nil
	}
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		k.server.Process.Signal(how) // it may be gone already
		select {
		case <-k.ended:
			k.server = nil
			return nil
		case <-time.After(serverPatience):
		}
	}
	return fmt.Errorf("the server, process %d, does not end", k.server.Process.Pid)
}

// machine is the computer outside of the cluster, as its folder tells.
type machine struct {
	folder string
	pid    int // of the keeper
}

// startMachine starts the keeper in namespaces of its own. Until the child is let go of, the machine ends with this process.
func startMachine(ctx context.Context, folder string) (*leash.Child, machine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, machine{}, err
	}
	child, err := leash.Start(ctx, []string{"unshare", "--net", "--mount", "--", self, "machine", folder}, filepath.Join(folder, keeperLog))
	if err != nil {
		return nil, machine{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, keeperPatience)
	defer cancel()
	for {
		m, err := findMachine(ctx, folder)
		if err == nil {
			return child, m, nil
		}
		select {
		case <-child.Ended():
			return child, m, fmt.Errorf("the machine ended: %s", host.Tail(filepath.Join(folder, keeperLog), 3))
		case <-ctx.Done():
			return child, m, fmt.Errorf("wait for the machine: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// findMachine finds the machine of a folder; leash.ErrNotRunning if there is none.
func findMachine(ctx context.Context, folder string) (machine, error) {
	text, err := leash.Ask(ctx, folder, leash.Request{Ask: askWho})
	if err != nil {
		return machine{}, err
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return machine{}, fmt.Errorf("the machine calls itself %q", text)
	}
	return machine{folder: folder, pid: pid}, nil
}

// connect lays the link between the machine and a node.
func (m machine) connect(ctx context.Context, nodeNamespace string) error {
	node, own := []string{"nsenter", "--net=" + nodeNamespace, "ip"}, []string{"nsenter", "--net", "--target", strconv.Itoa(m.pid), "ip"}
	for _, c := range [][]string{
		append(node, "link", "add", nodeLink, "type", "veth", "peer", "name", machineLink, "netns", strconv.Itoa(m.pid)),
		append(node, "address", "add", linkOfNode+linkMask, "dev", nodeLink), append(node, "link", "set", nodeLink, "up"),
		append(own, "address", "add", machineHost+linkMask, "dev", machineLink), append(own, "link", "set", machineLink, "up"),
		append(own, "route", "add", "default", "via", linkOfNode),
	} {
		if _, err := host.RunTool(exec.CommandContext(ctx, c[0], c[1:]...)); err != nil {
			return fmt.Errorf("connect the machine: %w", err)
		}
	}
	return nil
}

// command is a command on the machine: in its network, and with its hosts file.
func (m machine) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", strconv.Itoa(m.pid), "--net", "--mount", "--"}, args...)...)
}

// setHosts says which names the machine knows: addresses by name. The file is written in place: it is mounted where programs look.
func (m machine) setHosts(addresses map[string]string) error {
	text := "127.0.0.1 localhost\n"
	for _, name := range sorted(addresses) {
		text += addresses[name] + " " + name + "\n"
	}
	if err := os.WriteFile(filepath.Join(m.folder, hostsFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the machine's hosts file: %w", err)
	}
	return nil
}

// restart starts the server anew, or for the first time.
func (m machine) restart(ctx context.Context, program string) error {
	_, err := leash.Ask(ctx, m.folder, leash.Request{Ask: askRestart, Arg: program})
	return err
}

func apiAddress() string { return net.JoinHostPort(machineHost, apiPort) }
