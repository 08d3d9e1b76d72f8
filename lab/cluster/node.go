package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// A Node is one of a cluster's.
type Node struct {
	cluster *Cluster
	spec    nodeEntry
	pid     int          // of a native node's first process
	machine *lab.Machine // nil for a native node
}

// attach finds the running parts of a node.
func (n *Node) attach() (err error) {
	if n.spec.Kind == Machine {
		if n.machine == nil {
			n.machine, err = lab.Attach(n.folder())
		}
		return err
	}
	var r running
	if err := durable.ReadJSON(filepath.Join(n.cluster.dir, runFile), &r); err != nil {
		return err
	}
	if r.Nodes[n.spec.Name] != nil {
		n.pid = r.Nodes[n.spec.Name].Init.PID
	}
	return nil
}

func (n *Node) folder() string {
	if n.spec.Kind == Machine {
		return filepath.Join(n.cluster.dir, machinesDir, n.spec.Name)
	}
	return filepath.Join(n.cluster.dir, nodesDir, n.spec.Name)
}

// Name is the node's name in Kubernetes.
func (n *Node) Name() string { return n.spec.Name }

// Address is the node's internal address.
func (n *Node) Address() string { return n.spec.Address }

// Machine is the lab machine that the node is; nil for a native node.
func (n *Node) Machine() *lab.Machine { return n.machine }

// NetworkNamespace is the path of a native node's network namespace; "" for a machine.
func (n *Node) NetworkNamespace() string {
	if n.machine != nil {
		return ""
	}
	return "/proc/" + strconv.Itoa(n.pid) + "/ns/net"
}

// EKRoot returns the certificates of the CA that endorsed the node's TPM, root first, in PEM.
func (n *Node) EKRoot() ([]byte, error) {
	switch {
	case n.machine != nil:
		return n.machine.EKRoot()
	case !n.spec.TPM:
		return nil, fmt.Errorf("node %s has no TPM", n.spec.Name)
	}
	return swtpm.Authorities(filepath.Join(n.folder(), tpmCADir))
}

// Command is a command in a native node's namespaces, as root and with the host's programs. It ends with ctx and with the node.
func (n *Node) Command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(n.pid), "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--"}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=" + nativeLayout.containerd + ":" + nativeLayout.kubernetes + ":" + systemPath, "HOME=/run"}
	// The command is nsenter's child, as a member of the node's processes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// Output runs a command on the node as root and returns its stdout. An exit code other than 0 is an error with the end of its stderr.
func (n *Node) Output(ctx context.Context, args ...string) (string, error) {
	return n.run(ctx, nil, args...)
}

func (n *Node) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	var err error
	if n.machine != nil {
		var exit int
		exit, err = n.machine.Exec(ctx, guest.Command{Args: args, Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
		if err == nil && exit != 0 {
			err = fmt.Errorf("exit code %d", exit)
		}
	} else {
		cmd := n.Command(ctx, args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
		err = cmd.Run()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s on %s: %w: %s", strings.Join(args, " "), n.spec.Name, err, host.LastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

// ImportImage gives the node's containerd the images of a file with an OCI layout as tar archive (WriteImage). It waits for containerd to come up. An
// emulated machine takes a second for 2 MiB.
func (n *Node) ImportImage(ctx context.Context, archive string) error {
	if err := n.waitContainerd(ctx); err != nil {
		return err
	}
	load := n.load
	if n.machine != nil {
		load = n.fetch
	}
	if err := load(ctx, archive); err != nil {
		return fmt.Errorf("import image %s: %w", archive, err)
	}
	return nil
}

var importImage = []string{"ctr", "--namespace", "k8s.io", "images", "import", "--local"}

func (n *Node) load(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = n.run(ctx, f, append(importImage, "-")...)
	return err
}

// fetch has a machine take the archive over its network card, which is many times faster than its exec service.
func (n *Node) fetch(ctx context.Context, archive string) (err error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(n.cluster.HostAddress(), "0"))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, archive) }),
		ReadHeaderTimeout: time.Minute,
	}
	go server.Serve(l) // it ends with the listener
	defer server.Close()
	const taken = "/var/tmp/image.tar"
	defer func() {
		_, removal := n.Output(context.WithoutCancel(ctx), "rm", "-f", taken)
		err = errors.Join(err, removal)
	}()
	if _, err := n.Output(ctx, "mkdir", "-p", filepath.Dir(taken)); err != nil {
		return err
	}
	if _, err := n.Output(ctx, "wget", "-q", "-O", taken, "http://"+l.Addr().String()+"/image.tar"); err != nil {
		return err
	}
	_, err = n.Output(ctx, append(importImage, taken)...)
	return err
}

func (n *Node) waitContainerd(ctx context.Context) error {
	return poll(ctx, servePatience, "containerd on "+n.spec.Name, func() error {
		_, err := n.Output(ctx, "ctr", "--connect-timeout", "2s", "version")
		return err
	})
}

// ask speaks to the keeper of a native node's services.
func (n *Node) ask(ctx context.Context, what, service string) (string, error) {
	if n.machine != nil {
		return "", fmt.Errorf("node %s is a lab machine: its services are its init's", n.spec.Name)
	}
	return leash.Ask(ctx, filepath.Join(n.folder(), confName), leash.Request{Ask: what, Arg: service})
}

// Restart ends a service of a native node, such as APIServer, and starts it again.
func (n *Node) Restart(ctx context.Context, service string) error {
	_, err := n.ask(ctx, askRestart, service)
	return err
}

// Stop ends a service of a native node until Start.
func (n *Node) Stop(ctx context.Context, service string) error {
	_, err := n.ask(ctx, askPause, service)
	return err
}

// Start starts a service that Stop has ended.
func (n *Node) Start(ctx context.Context, service string) error {
	_, err := n.ask(ctx, askGoOn, service)
	return err
}

// Log returns what a service of a node has printed.
func (n *Node) Log(ctx context.Context, service string) ([]byte, error) {
	path := "/var/log/" + filepath.Base(service) + ".log"
	if n.machine != nil {
		return n.machine.ReadFile(ctx, path)
	}
	return os.ReadFile(filepath.Join(n.folder(), "log", filepath.Base(path)))
}

// waitServed waits until a native node's first process has made everything and its services are being started.
func (n *Node) waitServed(ctx context.Context) error {
	return poll(ctx, servePatience, "node "+n.spec.Name, func() error {
		if _, err := os.Stat("/proc/" + strconv.Itoa(n.pid)); err != nil {
			return fmt.Errorf("it ended: %s", host.Tail(filepath.Join(n.folder(), initLog), 5))
		}
		_, err := n.ask(ctx, askReady, "")
		return err
	})
}

// A nodeStatus is what this package reads of a Kubernetes Node.
type nodeStatus struct {
	Metadata struct{ UID string }
	Status   struct {
		NodeInfo   struct{ BootID string }
		Conditions []struct{ Type, Status, Message string }
	}
}

// ErrNotReady says that a node is not Ready.
var ErrNotReady = errors.New("not Ready")

// Ready says why the node is not Ready, nil if it is.
func (n *Node) Ready(ctx context.Context) error {
	s, err := n.status(ctx)
	if err != nil {
		return err
	}
	for _, c := range s.Status.Conditions {
		if c.Type == "Ready" && c.Status != "True" {
			return fmt.Errorf("node %s: %w: %s", n.spec.Name, ErrNotReady, c.Message)
		} else if c.Type == "Ready" {
			return nil
		}
	}
	return fmt.Errorf("node %s: %w", n.spec.Name, ErrNotReady)
}

func (n *Node) status(ctx context.Context) (nodeStatus, error) {
	var s nodeStatus
	err := n.cluster.Get(ctx, "/api/v1/nodes/"+n.spec.Name, &s)
	return s, err
}

// UID is the Node object's.
func (n *Node) UID(ctx context.Context) (string, error) {
	s, err := n.status(ctx)
	return s.Metadata.UID, err
}

// WaitReady waits until the node is Ready.
func (n *Node) WaitReady(ctx context.Context, patience time.Duration) error {
	return poll(ctx, patience, "node "+n.spec.Name, func() error { return n.Ready(ctx) })
}

// Reboot restarts a lab machine in good order and waits until its kubelet has told the API server of the new boot and is Ready.
func (n *Node) Reboot(ctx context.Context) error {
	if n.machine == nil {
		return fmt.Errorf("reboot %s: a native node runs on the host's kernel", n.spec.Name)
	}
	before, err := n.status(ctx)
	if err != nil {
		return err
	}
	if err := n.machine.Reboot(ctx); err != nil {
		return err
	}
	return poll(ctx, machineReadyMax, "node "+n.spec.Name+" after its reboot", func() error {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		if s.Status.NodeInfo.BootID == before.Status.NodeInfo.BootID {
			return errors.New("it has not told of the new boot")
		}
		return n.Ready(ctx)
	})
}
