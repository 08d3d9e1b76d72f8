package cluster

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/assay-project/assay/lab"
)

// AddWorker makes a further node and waits until it is Ready and has the cluster's images. A machine takes a minute or two.
func (c *Cluster) AddWorker(ctx context.Context, w Worker) (*Node, error) {
	if err := w.check(); err != nil {
		return nil, fmt.Errorf("add worker: %w", err)
	}
	if c.Node(w.Name) != nil {
		return nil, fmt.Errorf("add worker: there is a node %s", w.Name)
	}
	at := place(len(c.spec.Nodes))
	if at > maxNodes {
		return nil, fmt.Errorf("add worker: more than %d nodes", maxNodes)
	}
	n := &Node{cluster: c, spec: nodeEntry{Name: w.Name, Kind: w.Kind, Address: at.address(), Place: at}}
	start := c.startNativeWorker
	if w.Kind == Machine {
		start = func(ctx context.Context, n *Node) error { return c.startMachine(ctx, n, w.Machine) }
	}
	c.say("starting %s (%s)", w.Name, w.Kind)
	if err := start(ctx, n); err != nil {
		return nil, fmt.Errorf("add worker %s: %w", w.Name, err)
	}
	for _, image := range c.spec.Images {
		if err := n.ImportImage(ctx, image); err != nil {
			return nil, fmt.Errorf("add worker %s: %w", w.Name, err)
		}
	}
	if err := n.WaitReady(ctx, machineReadyMax); err != nil {
		return nil, fmt.Errorf("add worker %s: %w", w.Name, err)
	}
	c.say("%s is Ready", w.Name)
	return n, nil
}

func (c *Cluster) startNativeWorker(ctx context.Context, n *Node) error {
	if err := os.MkdirAll(filepath.Join(n.folder(), confName), 0o755); err != nil {
		return err
	}
	at := n.spec.Place
	s := nodeSpec{
		Name: n.spec.Name, Address: n.spec.Address, Gateway: at.gateway(), Link: at.link(),
		Services: nativeLayout.workerServices(n.spec.Name, n.spec.Address, false),
	}
	if err := c.startNative(ctx, n, s); err != nil {
		return err
	}
	return c.route(ctx, at)
}

// route makes the first node the way between a worker and everybody else.
func (c *Cluster) route(ctx context.Context, at place) error {
	for _, command := range [][]string{
		{"ip", "address", "add", at.gateway() + "/24", "dev", at.link()},
		{"ip", "link", "set", at.link(), "up"},
		{"ip", "route", "add", at.podCIDR(), "via", at.address()},
	} {
		if _, err := c.nodes[0].Output(ctx, command...); err != nil {
			return err
		}
	}
	return nil
}

// machineModules are what pods, services and their network need of the kernel. Nothing in the machine loads modules by itself.
var machineModules = []string{
	"overlay", "br_netfilter", "bridge", "veth", "nf_conntrack", "nf_conntrack_netlink", "nf_nat", "nf_tables", "nft_compat", "nft_chain_nat", "x_tables",
	"xt_MASQUERADE", "xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark", "xt_nat", "xt_nfacct", "xt_statistic", "xt_tcpudp", "ipt_REJECT", "xt_REDIRECT",
}

// startMachine makes a lab machine whose card is a tap in the first node's network.
func (c *Cluster) startMachine(ctx context.Context, n *Node, cfg lab.Config) error {
	at := n.spec.Place
	if _, err := c.nodes[0].Output(ctx, "ip", "tuntap", "add", at.link(), "mode", "tap"); err != nil {
		return err
	}
	if err := c.route(ctx, at); err != nil {
		return err
	}
	files, err := c.machineFiles(n)
	if err != nil {
		return err
	}
	cfg.Dir = n.folder()
	cfg.Supervisor = []string{c.spec.Program, "lab", "supervise"}
	if cfg.Init == "" {
		cfg.Init = filepath.Join(filepath.Dir(c.spec.Program), "assay-labinit")
	}
	if cfg.MemoryMiB == 0 {
		cfg.MemoryMiB = machineMemoryMiB
	}
	if cfg.DiskMiB == 0 {
		cfg.DiskMiB = 1024
	}
	cfg.Files = slices.Concat(files, cfg.Files)
	cfg.Services = slices.Concat(machineLayout.workerServices(n.spec.Name, n.spec.Address, true), cfg.Services)
	cfg.Modules = slices.Concat(machineModules, cfg.Modules)
	cfg.Taps = append(cfg.Taps, lab.Tap{Name: at.link(), Namespace: c.nodes[0].NetworkNamespace(), Address: at.address() + "/24", Gateway: at.gateway()})
	if cfg.Progress == nil {
		cfg.Progress = func(text string) { c.say("%s: %s", n.spec.Name, text) }
	}
	if n.machine, err = lab.Up(ctx, cfg); err != nil {
		return err
	}
	return c.learn(n)
}

// machineFiles are the programs, settings and keys that make a lab machine a node.
func (c *Cluster) machineFiles(n *Node) ([]lab.File, error) {
	t := &transplant{files: map[string]lab.File{}}
	for name, path := range map[string]string{
		"runc": "/usr/sbin/runc", "ip": "/usr/sbin/ip", "mount": "/usr/bin/mount", "umount": "/usr/bin/umount", "nsenter": "/usr/bin/nsenter", "iptables-nft": "/usr/sbin/xtables-nft-multi",
	} {
		if err := t.program(name, path); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		t.link("/usr/sbin/"+name, "xtables-nft-multi")
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
		if err := t.program(filepath.Join(hostPlugins, plugin), filepath.Join(hostPlugins, plugin)); err != nil {
			return nil, err
		}
	}
	if err := t.folder(libraryFolders()[0] + "/xtables"); err != nil {
		return nil, err
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2", "ctr"} {
		t.add("/usr/bin/"+program, c.spec.Programs.path("containerd", program))
	}
	t.add("/usr/bin/hyperkube", c.spec.Programs.path("hyperkube", "hyperkube"))
	for _, name := range []string{Kubelet, KubeProxy} {
		t.link("/usr/bin/"+name, "hyperkube")
	}
	settings, err := c.nodeFiles(machineLayout, n.spec)
	if err != nil {
		return nil, err
	}
	for name, data := range settings {
		path := machineLayout.file(name)
		t.files[path] = lab.File{Path: path, Mode: 0o600, Data: data}
	}
	for _, dir := range []string{"/var/lib/kubelet", "/var/lib/cni", "/var/log/pods"} {
		path := filepath.Join(dir, ".keep")
		t.files[path] = lab.File{Path: path, Mode: 0o644}
	}
	return slices.Collect(maps.Values(t.files)), nil
}
