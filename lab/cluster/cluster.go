package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// ErrNoCluster says that a folder holds no cluster.
var ErrNoCluster = errors.New("no lab cluster")

// A spec is what a cluster is; it stands in the cluster's folder.
type spec struct {
	Number   string      `json:"number"` // of the link to the host
	Token    string      `json:"token"`  // by which machines join; the folder is private to root
	Program  string      `json:"program"`
	Programs programs    `json:"programs"`
	Images   []string    `json:"images"`
	Nodes    []nodeEntry `json:"nodes"`
}

type nodeEntry struct {
	Name    string `json:"name"`
	Kind    Kind   `json:"kind"`
	Address string `json:"address"`
	Place   place  `json:"place"`
	TPM     bool   `json:"tpm"`
}

// A Cluster is one that Up made or Attach found. Its methods are not safe for concurrent use. Keep the value for as long as the cluster is needed: until
// Detach the cluster is tied to the process that made it.
type Cluster struct {
	dir      string
	spec     spec
	ca       *authority
	nodes    []*Node
	child    *leash.Child // nil when attached
	client   *http.Client // see api
	now      func() time.Time
	progress func(string)
	say      func(format string, args ...any)
}

// Attach finds the cluster in a folder, which another process made. One that no longer runs can still be taken Down.
func Attach(dir string) (*Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("attach to %s: %w", dir, err)
	}
	c := &Cluster{dir: dir, now: time.Now, progress: func(string) {}, say: func(string, ...any) {}}
	if err := durable.ReadJSON(filepath.Join(dir, specFile), &c.spec); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoCluster, dir)
	} else if err != nil {
		return nil, fmt.Errorf("attach to cluster: %w", err)
	}
	if c.ca, err = loadAuthority(filepath.Join(dir, pkiDir)); err != nil {
		return nil, fmt.Errorf("attach to cluster: %w", err)
	}
	for _, entry := range c.spec.Nodes {
		n := &Node{cluster: c, spec: entry}
		if err := n.attach(); err != nil {
			return nil, fmt.Errorf("attach to cluster: %w", err)
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// Dir is the cluster's folder.
func (c *Cluster) Dir() string { return c.dir }

// KubeconfigPath is the file with the kubeconfig of a user who may do everything.
func (c *Cluster) KubeconfigPath() string { return filepath.Join(c.dir, kubeconfigFile) }

// Kubeconfig is the content of KubeconfigPath.
func (c *Cluster) Kubeconfig() ([]byte, error) { return os.ReadFile(c.KubeconfigPath()) }

// HostAddress is the host's address as nodes and pods see it. What listens there on the host is reached from all of them.
func (c *Cluster) HostAddress() string { return hostAddress(c.spec.Number) }

// registryPort is where nodes expect a registry on the host.
const registryPort = 5000

// Registry is the address of a registry on the host, host:port, from which all nodes take images without TLS. That one listens there is up to you.
func (c *Cluster) Registry() string {
	return net.JoinHostPort(c.HostAddress(), strconv.Itoa(registryPort))
}

// Nodes returns the nodes, the one with the control plane first.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node returns a node by name, nil if there is none.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.spec.Name == name {
			return n
		}
	}
	return nil
}

// Program returns the path of a program of the cluster: kubectl, ctr, etcd and their like.
func (c *Cluster) Program(name string) (string, error) {
	for _, folder := range c.spec.Programs {
		if path := filepath.Join(folder, name); exec.Command(path).Err == nil {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("the cluster has no program %s", name)
}

// KubectlCommand is kubectl as the user who may do everything, for streams. The home folder is the cluster's: kubectl keeps caches there.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	kubectl, err := c.Program("kubectl")
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.KubeconfigPath(), "HOME="+c.dir)
	return cmd, nil
}

// Kubectl runs kubectl and returns what it printed. Its error holds what it complained of.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, nil, args...)
}

// Apply makes or changes the objects of a YAML text (server-side apply).
func (c *Cluster) Apply(ctx context.Context, yaml string) error {
	_, err := c.kubectl(ctx, strings.NewReader(yaml), "apply", "--server-side", "-f", "-")
	return err
}

func (c *Cluster) kubectl(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd, err := c.KubectlCommand(ctx, args...)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, host.LastLines(stderr.String(), 4))
	}
	return stdout.String(), nil
}

// maxAnswerBytes bounds what Get reads.
const maxAnswerBytes = 64 << 20

// ErrNotFound says that the API server knows no such object.
var ErrNotFound = errors.New("not found")

// Get reads an object of the API, such as /api/v1/nodes/node1, into v, as the user who may do everything.
func (c *Cluster) Get(ctx context.Context, path string, v any) error {
	client, err := c.api()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Server()+path, nil)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	answer, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	switch {
	case err != nil:
		return fmt.Errorf("get %s: %w", path, err)
	case answer.StatusCode == http.StatusNotFound:
		return fmt.Errorf("get %s: %w", path, ErrNotFound)
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("get %s: %s: %s", path, answer.Status, host.LastLines(string(body), 4))
	case v == nil:
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

// api is a client with the administrator's certificate.
func (c *Cluster) api() (*http.Client, error) {
	if c.client != nil {
		return c.client, nil
	}
	p, err := c.ca.issue(holder{name: "admin", groups: []string{"system:masters"}}, c.now())
	if err != nil {
		return nil, err
	}
	certificate, err := tls.X509KeyPair(p.cert, p.key)
	if err != nil {
		return nil, fmt.Errorf("API client: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.ca.cert)
	c.client = &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}},
	}
	return c.client, nil
}

// waitAPI waits until the API server answers.
func (c *Cluster) waitAPI(ctx context.Context) error {
	return poll(ctx, servePatience, "the API server", func() error {
		client, err := c.api()
		if err != nil {
			return err
		}
		answer, err := client.Get(c.Server() + "/readyz")
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// waitDNS waits until CoreDNS is there.
func (c *Cluster) waitDNS(ctx context.Context) error {
	return poll(ctx, readyPatience, "CoreDNS", func() error {
		var deployment struct {
			Status struct{ AvailableReplicas int }
		}
		if err := c.Get(ctx, "/apis/apps/v1/namespaces/kube-system/deployments/coredns", &deployment); err != nil {
			return err
		}
		if deployment.Status.AvailableReplicas < 1 {
			return errors.New("no replica is available")
		}
		return nil
	})
}

// poll repeats a question until it has no error.
func poll(ctx context.Context, patience time.Duration, what string, question func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := question()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w", what, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// learn adds a node that runs.
func (c *Cluster) learn(n *Node) error {
	if err := n.attach(); err != nil {
		return err
	}
	c.nodes = append(c.nodes, n)
	c.spec.Nodes = append(c.spec.Nodes, n.spec)
	return durable.WriteJSON(filepath.Join(c.dir, specFile), c.spec, 0o600)
}

// Running says what is wrong with the cluster's supervisor or its first node; nil if they are well.
func (c *Cluster) Running(ctx context.Context) error {
	if len(c.nodes) == 0 {
		return ErrNoCluster
	}
	_, err := c.nodes[0].ask(ctx, askReady, "")
	return err
}

// Detach lets the cluster outlive this process. From then on only Down ends it.
func (c *Cluster) Detach() error {
	var errs []error
	for _, n := range c.nodes {
		if n.machine != nil {
			errs = append(errs, n.machine.Detach())
		}
	}
	if c.child != nil {
		errs = append(errs, c.child.Detach())
	}
	return errors.Join(errs...)
}

// Down ends the cluster and removes its folder. A cluster that is gone already is no error.
func (c *Cluster) Down(ctx context.Context) error {
	machines, err := lab.List(filepath.Join(c.dir, machinesDir))
	errs := []error{err}
	for _, m := range machines {
		errs = append(errs, m.Down(ctx))
	}
	var left running
	if err := durable.ReadJSON(filepath.Join(c.dir, runFile), &left); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	asking, cancel := context.WithTimeout(ctx, downPatience)
	defer cancel()
	_, err = leash.Ask(asking, c.dir, leash.Request{Ask: askDown})
	if err != nil && !errors.Is(err, leash.ErrNotRunning) {
		errs = append(errs, err)
	}
	if c.child != nil {
		c.child.Pull()
	}
	if left.Supervisor.Await(downPatience) != nil {
		errs = append(errs, left.Supervisor.Kill())
	}
	// What a supervisor that was killed has left.
	return errors.Join(append(errs, left.end(), os.RemoveAll(c.dir))...)
}

// DownTime bounds Down for a caller: more than a supervisor takes that waits for a slow disk.
const DownTime = downPatience + 3*time.Minute

// downPatience is how long a supervisor may take to end its nodes; it gives the kernel some minutes for them.
const downPatience = 5 * time.Minute
