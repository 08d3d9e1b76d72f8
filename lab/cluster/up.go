package cluster

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

//go:embed manifests
var manifests embed.FS

// dnsImage names the image of CoreDNS.
const dnsImage = "assay.test/coredns:1"

// ErrExists says that a cluster's folder is in use.
var ErrExists = errors.New("the folder is not empty")

// How long things may take that are waited for, on a machine with other work.
const (
	servePatience   = 3 * time.Minute
	readyPatience   = 3 * time.Minute
	machineReadyMax = 6 * time.Minute
)

// Up makes a cluster and waits until all its nodes are Ready and names resolve. Every mistake of the configuration and everything that the host lacks is
// reported at once. If it fails, or if this process ends before Detach, nothing of the cluster is left but the programs in the cache.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err := errors.Join(err, checkHost()); err != nil {
		return nil, fmt.Errorf("lab cluster: %w", err)
	}
	built, err := build(ctx, cfg.Build)
	if err != nil {
		return nil, fmt.Errorf("lab cluster: %w", err)
	}
	if err := claimFolder(cfg.Dir); err != nil {
		return nil, fmt.Errorf("lab cluster: %w", err)
	}
	c := &Cluster{dir: cfg.Dir, now: cfg.Now, progress: cfg.Progress, spec: spec{Program: cfg.Program, Programs: built}}
	if err := c.up(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("lab cluster %s: %w", cfg.Dir, err), c.Down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

func claimFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s holds %s", ErrExists, dir, entries[0].Name())
	}
	return nil
}

func (c *Cluster) up(ctx context.Context, cfg Config) error {
	began := time.Now()
	say := func(format string, args ...any) {
		cfg.Progress(fmt.Sprintf("%5.1f s  ", time.Since(began).Seconds()) + fmt.Sprintf(format, args...))
	}
	c.say = say
	for _, dir := range []string{pkiDir, imagesDir, nodesDir, machinesDir} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o700); err != nil {
			return fmt.Errorf("make folders: %w", err)
		}
	}
	var err error
	if c.child, err = leash.Start(ctx, append(superviseCommand(cfg.Program), c.dir), filepath.Join(c.dir, supervisorLog)); err != nil {
		return err
	}
	if c.spec.Number, err = c.askWhenUp(ctx, leash.Request{Ask: askLink}); err != nil {
		return err
	}
	if err := c.makeAuthority(); err != nil {
		return err
	}
	pause, dns, err := c.ownImages()
	if err != nil {
		return err
	}
	say("starting %s, with the control plane", firstNode)
	first, err := c.startFirst(ctx)
	if err != nil {
		return err
	}
	c.spec.Images = append([]string{pause}, cfg.Images...)
	if err := c.first(ctx, first, dns); err != nil {
		return err
	}
	for _, w := range cfg.Workers {
		if _, err := c.AddWorker(ctx, w); err != nil {
			return err
		}
	}
	if err := c.waitDNS(ctx); err != nil {
		return err
	}
	say("names of services resolve; KUBECONFIG=%s", c.KubeconfigPath())
	return nil
}

// first brings the first node to Ready.
func (c *Cluster) first(ctx context.Context, n *Node, dns string) error {
	for _, image := range append([]string{dns}, c.spec.Images...) {
		if err := n.ImportImage(ctx, image); err != nil {
			return err
		}
	}
	c.say("containerd has the images")
	if err := c.waitAPI(ctx); err != nil {
		return err
	}
	c.say("the API server answers")
	if err := c.applyManifests(ctx); err != nil {
		return err
	}
	if err := n.WaitReady(ctx, readyPatience); err != nil {
		return err
	}
	c.say("%s is Ready", n.Name())
	return nil
}

// askWhenUp asks the supervisor something as soon as it listens.
func (c *Cluster) askWhenUp(ctx context.Context, r leash.Request) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, servePatience)
	defer cancel()
	for {
		text, err := leash.Ask(ctx, c.dir, r)
		if !errors.Is(err, leash.ErrNotRunning) {
			return text, err
		}
		select {
		case <-c.child.Ended():
			return "", fmt.Errorf("the supervisor ended: %s", host.Tail(filepath.Join(c.dir, supervisorLog), 5))
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the supervisor: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// makeAuthority makes the CA, the administrator's kubeconfig and the token by which nodes join.
func (c *Cluster) makeAuthority() error {
	var err error
	if c.ca, err = newAuthority(filepath.Join(c.dir, pkiDir), c.now()); err != nil {
		return err
	}
	text := strings.ToLower(rand.Text())
	c.spec.Token = text[:6] + "." + text[6:22]
	if err := c.writeKubeconfig(c.KubeconfigPath(), holder{name: "admin", groups: []string{"system:masters"}}); err != nil {
		return err
	}
	return durable.WriteJSON(filepath.Join(c.dir, specFile), c.spec, 0o600)
}

func (c *Cluster) writeKubeconfig(path string, h holder) error {
	p, err := c.ca.issue(h, c.now())
	if err != nil {
		return err
	}
	text, err := c.ca.kubeconfig(c.Server(), p.user())
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// startFirst writes what the first node is made of and starts it.
func (c *Cluster) startFirst(ctx context.Context) (*Node, error) {
	address := routerAddress(c.spec.Number)
	n := &Node{cluster: c, spec: nodeEntry{Name: firstNode, Kind: Native, Address: address, TPM: true}}
	conf := filepath.Join(n.folder(), confName)
	if err := os.MkdirAll(filepath.Join(conf, "cni"), 0o755); err != nil {
		return nil, err
	}
	if err := c.controlFiles(conf, address); err != nil {
		return nil, err
	}
	options := swtpm.Options{StateDir: filepath.Join(n.folder(), tpmStateDir), CADir: filepath.Join(n.folder(), tpmCADir), Name: firstNode}
	if err := swtpm.Manufacture(ctx, options); err != nil {
		return nil, err
	}
	services := append(nativeLayout.controlServices(address), nativeLayout.workerServices(firstNode, address, false)...)
	s := nodeSpec{Name: firstNode, Address: address, Gateway: hostAddress(c.spec.Number), Services: services, TPM: true, Router: true}
	return n, c.startNative(ctx, n, s)
}

// controlFiles are the keys of the control plane.
func (c *Cluster) controlFiles(conf, address string) error {
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "127.0.0.1", address, apiService}
	for file, h := range map[string]holder{
		"apiserver":         {name: "kube-apiserver", hosts: names},
		"apiserver-kubelet": {name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		"accounts":          {name: "service-accounts"},
	} {
		p, err := c.ca.issue(h, c.now())
		if err != nil {
			return err
		}
		if err := p.write(conf, file); err != nil {
			return err
		}
	}
	for file, user := range map[string]string{"controllers": "system:kube-controller-manager", "scheduler": "system:kube-scheduler"} {
		if err := c.writeKubeconfig(filepath.Join(conf, file+".kubeconfig"), holder{name: user}); err != nil {
			return err
		}
	}
	key, err := os.ReadFile(filepath.Join(c.dir, pkiDir, caKeyFile))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(conf, caKeyFile), key, 0o600)
}

// startNative completes a native node's folder and has the supervisor start it.
func (c *Cluster) startNative(ctx context.Context, n *Node, s nodeSpec) error {
	files, err := c.nodeFiles(nativeLayout, n.spec)
	if err != nil {
		return err
	}
	for name, data := range files {
		path := filepath.Join(n.folder(), confName, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	s.Binds = []bind{{From: filepath.Join(n.folder(), confName), To: nativeLayout.conf}}
	for part, folder := range c.spec.Programs {
		s.Binds = append(s.Binds, bind{From: folder, To: filepath.Join(insideDir, part)})
	}
	for folder, inside := range map[string]string{"lib": "/var/lib", "log": "/var/log", tpmSocketDir: TPMDir} {
		from := filepath.Join(n.folder(), folder)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
		s.Binds = append(s.Binds, bind{From: from, To: inside})
	}
	for _, dir := range []string{"lib/kubelet", "lib/cni", "log/pods", "log/containers"} {
		if err := os.MkdirAll(filepath.Join(n.folder(), dir), 0o755); err != nil {
			return err
		}
	}
	if s.Hierarchies, err = hostHierarchies(groupName(c.spec.Number, n.spec.Name)); err != nil {
		return err
	}
	if err := durable.WriteJSON(filepath.Join(n.folder(), nodeFile), s, 0o600); err != nil {
		return err
	}
	if _, err := leash.Ask(ctx, c.dir, leash.Request{Ask: askNode, Arg: n.spec.Name}); err != nil {
		return err
	}
	if err := c.learn(n); err != nil {
		return err
	}
	return n.waitServed(ctx)
}

// nodeFiles are the keys and settings that every node needs, by their names in its configuration folder.
func (c *Cluster) nodeFiles(l installation, n nodeEntry) (map[string][]byte, error) {
	files := map[string][]byte{caCertFile: c.ca.pem, "containerd.toml": l.containerdConfig(), "resolv.conf": []byte("# no names but the cluster's\n")}
	for file, h := range map[string]holder{"proxy": {name: "system:kube-proxy"}, "kubelet": {name: "system:node:" + n.Name, groups: []string{"system:nodes"}}} {
		p, err := c.ca.issue(h, c.now())
		if err != nil {
			return nil, err
		}
		if files[file+".kubeconfig"], err = c.ca.kubeconfig(c.Server(), p.user()); err != nil {
			return nil, err
		}
	}
	server, err := c.ca.issue(holder{name: n.Name, hosts: []string{n.Name, n.Address, "127.0.0.1"}}, c.now())
	if err != nil {
		return nil, err
	}
	files["kubelet-server.crt"], files["kubelet-server.key"] = server.cert, server.key
	if n.Kind == Machine {
		delete(files, "kubelet.kubeconfig") // it joins by the token
		if files["bootstrap.kubeconfig"], err = c.ca.kubeconfig(c.Server(), map[string]any{"token": c.spec.Token}); err != nil {
			return nil, err
		}
	}
	if files["kubelet.json"], err = l.kubeletConfig(); err != nil {
		return nil, err
	}
	registry, how := plainRegistry(c.Registry())
	files[registry] = how
	files["cni/10-lab.conflist"], err = networkConfig(n.Place.podCIDR())
	return files, err
}

// applyManifests makes what every cluster of the lab has: the token for nodes, and DNS.
func (c *Cluster) applyManifests(ctx context.Context) error {
	id, secret, _ := strings.Cut(c.spec.Token, ".")
	fill := strings.NewReplacer("@TOKEN_ID@", id, "@TOKEN_SECRET@", secret, "@NODE@", firstNode, "@DNS_IMAGE@", dnsImage, "@DNS_SERVICE@", dnsService)
	entries, err := manifests.ReadDir("manifests")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		text, err := manifests.ReadFile("manifests/" + entry.Name())
		if err != nil {
			return err
		}
		if err := c.Apply(ctx, fill.Replace(string(text))); err != nil {
			return err
		}
	}
	return nil
}

// Server is the URL of the API server.
func (c *Cluster) Server() string {
	return "https://" + net.JoinHostPort(routerAddress(c.spec.Number), strconv.Itoa(apiPort))
}
