package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/lab/leash"
)

const (
	// interval between two rounds of a node.
	interval = 2 * time.Second
	runTime  = 20 * time.Minute
)

// run makes cluster and machine, and leaves them running. When it fails it leaves nothing.
func run(ctx context.Context, p *place) (err error) {
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	archives, tag, err := p.images()
	if err != nil {
		return err
	}
	for _, program := range []string{"assay", "helm"} {
		if _, err := os.Stat(filepath.Join(p.build, program)); err != nil {
			return fmt.Errorf("%w; `make programs helm` makes it", err)
		}
	}
	if _, err := findWorld(ctx, p); err == nil {
		return fmt.Errorf("it runs already, in %s: `make verify`, or `make clean` first", p.dir)
	}
	if err := clean(ctx, p); err != nil {
		return err
	}
	w := &world{place: p}
	defer func() {
		if err != nil {
			w.autopsy(context.WithoutCancel(ctx))
			err = errors.Join(err, clean(context.WithoutCancel(ctx), p))
		}
	}()
	for _, dir := range []string{p.machineDir(), p.home()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	w.cluster, err = cluster.Up(ctx, cluster.Config{
		Dir: p.clusterDir(), Program: filepath.Join(p.build, "assay"), Images: archives, Build: cluster.BuildConfig{Checkout: p.checkout},
		Workers: []cluster.Worker{{Name: "node2", Kind: cluster.Native}}, Progress: func(text string) { p.tell("cluster: %s", text) },
	})
	if err != nil {
		return err
	}
	child, err := w.startServer(ctx)
	if err != nil {
		return err
	}
	if err := w.install(ctx, tag); err != nil {
		return err
	}
	if err := errors.Join(w.cluster.Detach(), child.Detach()); err != nil {
		return err
	}
	w.tell("it runs. Look at it: export KUBECONFIG=%s; XDG_CONFIG_HOME=%s nsenter --target %d --net --mount %s/assay node list", w.cluster.KubeconfigPath(), w.home(), w.machine.pid, p.build)
	return nil
}

// startServer makes the machine and starts the server on it.
func (w *world) startServer(ctx context.Context) (*leash.Child, error) {
	cfg := serve.Default()
	cfg.StateDir, cfg.Names, cfg.Interval = filepath.Join(w.machineDir(), stateDir), []string{machineHost}, conf.Duration(interval)
	cfg.Listen = serve.Listen{API: apiAddress(), Registrar: machineHost + ":" + registrarPort, Metrics: "127.0.0.1:9464"}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("server's configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(w.machineDir(), serverConfig), text, 0o600); err != nil {
		return nil, fmt.Errorf("server's configuration: %w", err)
	}
	if err := (machine{folder: w.machineDir()}).setHosts(w.addresses()); err != nil {
		return nil, err
	}
	child, m, err := startMachine(ctx, w.machineDir())
	if err != nil {
		return nil, err
	}
	w.machine = m
	w.tell("the machine outside has namespaces of its own")
	if err := m.connect(ctx, w.cluster.Node("node1").NetworkNamespace()); err != nil {
		return nil, err
	}
	return child, w.restartServer(ctx, "the server outside answers at "+apiAddress())
}

// restartServer starts the server, anew if it runs, and waits until it answers its administrator.
func (w *world) restartServer(ctx context.Context, what string) error {
	if err := w.machine.restart(ctx, filepath.Join(w.build, "assay")); err != nil {
		return err
	}
	return w.eventually(ctx, what, func(ctx context.Context) error {
		_, err := w.assay(ctx, nil, "login", "https://"+apiAddress(), "--credentials", filepath.Join(w.machineDir(), stateDir, "administrator"))
		return err
	})
}

// install gives the cluster what it needs of the server, and the chart.
func (w *world) install(ctx context.Context, tag string) error {
	token, err := w.assay(ctx, nil, "token", "create")
	if err != nil {
		return err
	}
	cert := filepath.Join(w.home(), "operator")
	if _, err := w.assay(ctx, nil, "cert", "issue", "--role", "operator", "--name", "cluster", "--out", cert); err != nil {
		return err
	}
	values := filepath.Join(w.home(), "values.yaml")
	if err := os.WriteFile(values, []byte(chartValues(tag)), 0o600); err != nil {
		return fmt.Errorf("chart's values: %w", err)
	}
	for _, args := range [][]string{
		{"create", "namespace", namespace},
		{"-n", namespace, "create", "secret", "generic", "assay-join-token", "--from-literal=token=" + strings.TrimSpace(token)},
		{"-n", namespace, "create", "secret", "generic", "assay-operator-cert", "--from-file=tls.crt=" + cert + "/cert.pem", "--from-file=tls.key=" + cert + "/key.pem", "--from-file=ca.crt=" + cert + "/ca.pem"},
	} {
		if _, err := w.cluster.Kubectl(ctx, args...); err != nil {
			return fmt.Errorf("give the cluster the server's credentials: %w", err)
		}
	}
	if err := w.helm(ctx, "install", "assay", filepath.Join(w.checkout, "deploy", "chart"), "--namespace", namespace, "--values", values); err != nil {
		return err
	}
	w.tell("the chart is installed, with an address, a join token and the operator's certificate")
	return w.await(ctx, "both nodes are registered, each with its own TPM, and Unappraised", func(r v1alpha1.NodeReport) string {
		if r.Status.Agent == "" || r.Status.Verdict != "Unappraised" {
			return "not yet Unappraised"
		}
		return ""
	})
}

// chartValues are the chart's.
func chartValues(tag string) string {
	return fmt.Sprintf(`images: {registry: localhost, tag: %q, pullPolicy: Never}
server:
  external: {address: %q, joinTokenSecret: assay-join-token, operatorSecret: assay-operator-cert}
agent:
  hostNetwork: true
  contact: NodeName
  tpm: Emulated
  emulatedNodeSelector: {kubernetes.io/os: linux}
  heartbeat: 5s
`, tag, apiAddress())
}

// autopsy prints what a person would look at after a failure.
func (w *world) autopsy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	log, err := os.ReadFile(filepath.Join(w.machineDir(), serverLog))
	if errors.Is(err, fs.ErrNotExist) {
		w.tell("the server had not been started")
	} else {
		w.tell("the server's log (%v):\n%s", err, log[max(0, len(log)-4000):])
	}
	if w.cluster == nil {
		return
	}
	for _, args := range [][]string{
		{"get", "pods,ds", "-A", "-o", "wide"}, {"get", "attestationplatforms,nodereports", "-o", "yaml"}, {"get", "events", "-A"},
		{"logs", "-n", namespace, "deploy/assay-operator", "--tail=30"},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/part-of=assay", "--all-containers", "--prefix", "--tail=15"},
	} {
		out, err := w.cluster.Kubectl(ctx, args...)
		w.tell("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}
