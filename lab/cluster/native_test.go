package cluster

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/lab/leash"
)

func TestMain(m *testing.M) {
	RunSupervisor()
	os.Exit(m.Run())
}

// bare makes a cluster of one native node whose only service is a process that sleeps: everything but Kubernetes, in a second.
func bare(t *testing.T) *Cluster {
	t.Helper()
	return bareWith(t, guest.Service{Name: "sleeper", Args: []string{"/bin/sh", "-c", "echo awake; exec sleep 700"}, Log: "/var/log/sleeper.log"})
}

func bareWith(t *testing.T, sleeper guest.Service) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "c-")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{dir: dir, now: time.Now, progress: func(string) {}, say: t.Logf, spec: spec{Program: self}}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	for _, sub := range []string{pkiDir, imagesDir, nodesDir, machinesDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if c.child, err = leash.Start(t.Context(), append(superviseCommand(self), dir), filepath.Join(dir, supervisorLog)); err != nil {
		t.Fatal(err)
	}
	if c.spec.Number, err = c.askWhenUp(t.Context(), leash.Request{Ask: askLink}); err != nil {
		t.Fatal(err)
	}
	if err := c.makeAuthority(); err != nil {
		t.Fatal(err)
	}
	n := &Node{cluster: c, spec: nodeEntry{Name: firstNode, Kind: Native, Address: routerAddress(c.spec.Number)}}
	s := nodeSpec{Name: firstNode, Address: n.spec.Address, Gateway: hostAddress(c.spec.Number), Services: []guest.Service{sleeper}, Router: true}
	if err := c.startNative(t.Context(), n, s); err != nil {
		t.Fatal(err)
	}
	return c
}

// alone holds the host's one place for machines until the test ends.
func alone(t *testing.T) {
	t.Helper()
	need.Root(t)
	need.Program(t, "iproute2", "ip")
	need.Program(t, "iptables", "iptables")
	release, err := lab.Exclusive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { release() })
}

// says runs a shell command on a node.
func says(t *testing.T, n *Node, script string) string {
	t.Helper()
	out, err := n.Output(t.Context(), "sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// greeter says hello to whoever connects.
func greeter(t *testing.T, host string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	return l.Addr().String()
}

// TestNativeNode: what a node sees is its own, its services obey, and it ends with everything that ran in it.
func TestNativeNode(t *testing.T) {
	alone(t)
	c := bare(t)
	n := c.Node(firstNode)
	if err := c.Running(t.Context()); err != nil {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"hostname":                        firstNode,
		"cat /proc/sys/kernel/panic":      "10",
		"ls /tmp":                         "",
		"cat /proc/1/comm":                filepath.Base(os.Args[0])[:min(15, len(filepath.Base(os.Args[0])))],
		"cat /sys/class/net/eth0/carrier": "1",
		"grep -c assay-cluster /proc/1/cgroup; true": "0",
	} {
		if got := says(t, n, script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	if got := says(t, n, "exec bash -c 'cat < /dev/tcp/"+strings.Replace(greeter(t, c.HostAddress()), ":", "/", 1)+"'"); got != "hello" {
		t.Errorf("the host says %q to the node", got)
	}
	sleepers := func() string { return says(t, n, "grep -l '^sleep$' /proc/[0-9]*/comm | wc -l") }
	awaitText := func(want string, question func() string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); question() != want; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q, want %q", question(), want)
			}
		}
	}
	awaitText("1", sleepers)
	if err := n.Stop(t.Context(), "sleeper"); err != nil {
		t.Fatal(err)
	}
	awaitText("0", sleepers)
	if err := n.Start(t.Context(), "sleeper"); err != nil {
		t.Fatal(err)
	}
	awaitText("1", sleepers)
	if log, err := n.Log(t.Context(), "sleeper"); err != nil || string(log) != "awake\nawake\n" {
		t.Errorf("log %q: %v", log, err)
	}
	if err := n.Restart(t.Context(), "dancer"); err == nil || !strings.Contains(err.Error(), `no service "dancer"`) {
		t.Errorf("%v", err)
	}
	if err := n.Reboot(t.Context()); err == nil || !strings.Contains(err.Error(), "runs on the host's kernel") {
		t.Errorf("%v", err)
	}
	if _, err := leash.Ask(t.Context(), c.dir, leash.Request{Ask: askNode, Arg: firstNode}); err == nil || !strings.Contains(err.Error(), "node node1 exists") {
		t.Errorf("%v", err)
	}
	if _, err := leash.Ask(t.Context(), c.dir, leash.Request{Ask: "dance"}); err == nil || !strings.Contains(err.Error(), `unknown request "dance"`) {
		t.Errorf("%v", err)
	}
	run := readRunning(t, c)
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	gone(t, c, run)
}

func readRunning(t *testing.T, c *Cluster) running {
	t.Helper()
	var r running
	if err := durable.ReadJSON(filepath.Join(c.dir, runFile), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// gone looks for everything that a cluster of native nodes is.
func gone(t *testing.T, c *Cluster, r running) {
	t.Helper()
	for _, path := range []string{c.dir, "/sys/class/net/" + r.Link} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if r.Supervisor.Alive() {
		t.Error("the supervisor is left")
	}
	for name, n := range r.Nodes {
		if n.Init.Alive() {
			t.Errorf("the first process of %s is left", name)
		}
		for _, h := range n.Hierarchies {
			if _, err := os.Stat(h.folder()); err == nil {
				t.Errorf("cgroup %s is left", h.folder())
			}
		}
	}
}

// TestNativeNodeEndsWithItsSupervisor: by the kernel's doing. Who comes next gets another number, and Down removes the rest.
func TestNativeNodeEndsWithItsSupervisor(t *testing.T) {
	alone(t)
	c := bare(t)
	r := readRunning(t, c)
	if err := r.Supervisor.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Nodes[firstNode].Init.Await(time.Minute); err != nil {
		t.Fatal(err)
	}
	next := bare(t)
	third := bare(t)
	if numbers := []string{c.spec.Number, next.spec.Number, third.spec.Number}; len(slices.Compact(slices.Sorted(slices.Values(numbers)))) < 3 {
		t.Errorf("the killed cluster and the two after it have the numbers %s", numbers)
	}
	if err := next.Running(t.Context()); err != nil {
		t.Error(err)
	}
	left, err := Attach(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := left.Running(t.Context()); err == nil {
		t.Error("a cluster that was killed is said to run")
	}
	if err := left.Down(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, c, r)
	for _, other := range []*Cluster{next, third} {
		if err := other.Running(t.Context()); err != nil {
			t.Errorf("the end of the one cluster has touched another: %v", err)
		}
		if got := says(t, other.Node(firstNode), "cat /sys/class/net/eth0/carrier"); got != "1" {
			t.Errorf("the end of the one cluster has touched another's link: %q", got)
		}
	}
}
