// Package world gives tests the product in a real Kubernetes cluster: real API server, kubelets and containerd, the chart, the images that are
// published. What they have in common stands here: a cluster that goes with its test, stories told step by step, an administrator's access, and
// what a NodeReport says. It needs what `make build` and `make helm` make. A package that uses it calls cluster.RunSupervisor in its TestMain.
package world

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

const (
	root = "../.."
	// Namespace is where the chart is installed.
	Namespace = "assay-system"
	// APIPort and RegistrarPort are the NodePorts that the stories' values ask for.
	APIPort       = 30443
	RegistrarPort = 30891
	// VolumeClass is the storage class of the volume that Volume makes.
	VolumeClass = "lab"
	// Slow bounds what waits for an emulated machine that shares its host.
	Slow = 4 * time.Minute
	// storyTime bounds a whole story.
	storyTime = 20 * time.Minute
)

// World is one cluster with the product in it. It is the test of the step that is being played, which a step that fails ends.
type World struct {
	*testing.T
	// Ctx ends with the time that a story has.
	Ctx     context.Context
	Cluster *cluster.Cluster
	// API is an administrator's client of the server in the cluster, set by Login.
	API *client.Client
	// Home holds credentials and documents; it goes with the test.
	Home string
	// Tag is the images'.
	Tag   string
	start time.Time
}

// Steps are the parts of a story.
type Steps []struct {
	Name string
	Run  func()
}

// Story plays steps in order; after one that failed there is no sense in the next.
func (w *World) Story(t *testing.T, steps Steps) {
	t.Helper()
	for _, s := range steps {
		began := time.Now()
		if !t.Run(s.Name, func(t *testing.T) {
			w.T = t
			s.Run()
		}) {
			break
		}
		w.T = t
		w.Tell("%s: done in %.1f s", s.Name, time.Since(began).Seconds())
	}
	w.T = t
}

// Tell prints a step with the time since the story began.
func (w *World) Tell(format string, args ...any) {
	w.Helper()
	w.Logf("%6.1f s  %s", time.Since(w.start).Seconds(), fmt.Sprintf(format, args...))
}

// Must ends the story when a step failed.
func (w *World) Must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Built is the path of something that `make build` makes.
func Built(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "build", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("run `make build` first: %v", err)
	}
	return path
}

// New starts a cluster of node1 (native, control plane) and workers, one at a time among all programs of this host; with the test it goes. Its nodes
// have the images.
func New(t *testing.T, workers ...cluster.Worker) *World {
	t.Helper()
	w := begin(t)
	w.up(cluster.Config{Workers: workers, Images: w.images()})
	return w
}

// NewEmpty is New without the images: nodes have to pull them, as anywhere else.
func NewEmpty(t *testing.T, workers ...cluster.Worker) *World {
	t.Helper()
	w := begin(t)
	w.up(cluster.Config{Workers: workers})
	return w
}

// begin waits until no other cluster runs on this host.
func begin(t *testing.T) *World {
	t.Helper()
	need.Cluster(t)
	release, err := lab.Exclusive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), storyTime)
	t.Cleanup(cancel)
	return &World{T: t, Ctx: ctx, Home: t.TempDir(), start: time.Now()}
}

func (w *World) up(cfg cluster.Config) {
	w.Helper()
	folder, err := os.MkdirTemp("", "c-") // t.TempDir's paths are too long for Unix sockets
	w.Must(err)
	cfg.Dir, cfg.Program, cfg.Progress = folder, Built(w.T, "assay"), func(text string) { w.Tell("%s", text) }
	w.Cluster, err = cluster.Up(w.Ctx, cfg)
	w.Must(err)
	test := w.T
	test.Cleanup(func() {
		if test.Failed() {
			w.autopsy()
		}
		down, cancel := context.WithTimeout(context.WithoutCancel(w.Ctx), cluster.DownTime)
		defer cancel()
		if err := w.Cluster.Down(down); err != nil {
			test.Error(err)
		}
	})
}

func (w *World) images() []string {
	w.Helper()
	archives, err := filepath.Glob(filepath.Join(Built(w.T, "images"), "*.tar"))
	w.Must(err)
	if len(archives) < 4 {
		w.Fatalf("build/images holds %d archives, want the four images", len(archives))
	}
	w.Tag = w.tagOf(archives[0])
	return archives
}

// tagOf reads which tag an image was built with.
func (w *World) tagOf(archive string) string {
	w.Helper()
	f, err := os.Open(archive)
	w.Must(err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		w.Must(err)
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Annotations map[string]string }
		}
		w.Must(json.NewDecoder(r).Decode(&index))
		return index.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	}
}

// Run runs a program of the build with the cluster's kubeconfig and returns its standard output.
func (w *World) Run(program string, args ...string) (string, error) {
	w.Helper()
	cmd := exec.CommandContext(w.Ctx, Built(w.T, program), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.Cluster.KubeconfigPath(), "HOME="+w.Home, "XDG_CONFIG_HOME="+w.Home, "HELM_CACHE_HOME="+w.Home, "HELM_DATA_HOME="+w.Home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s%s", program, strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String(), nil
}

// Helm installs or upgrades the chart with values in YAML.
func (w *World) Helm(action, values string, flags ...string) error {
	w.Helper()
	file := filepath.Join(w.Home, "values.yaml")
	w.Must(os.WriteFile(file, []byte(values), 0o600))
	_, err := w.Run("helm", append([]string{action, "assay", root + "/deploy/chart", "--namespace", Namespace, "--create-namespace", "--values", file, "--wait=false"}, flags...)...)
	return err
}

// Eventually asks until the answer is empty, which is what is still missing.
func (w *World) Eventually(what string, patience time.Duration, missing func() string) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		lacking := missing()
		if lacking == "" {
			w.Tell("%s", what)
			return
		}
		if time.Now().After(deadline) || w.Ctx.Err() != nil {
			w.Fatalf("%s: not within %v: %s", what, patience, lacking)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// Never watches that something does not happen for a while.
func (w *World) Never(what string, during time.Duration, happened func() string) {
	w.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if text := happened(); text != "" {
			w.Fatalf("%s: %s", what, text)
		}
	}
	w.Tell("%s", what)
}

// URL is the native API by the first node's port.
func (w *World) URL() string {
	return fmt.Sprintf("https://%s:%d", w.Cluster.Node("node1").Address(), APIPort)
}

// Login takes the administrator's certificate out of the cluster, wherever it comes from, and reaches the server by the first node's port.
func (w *World) Login() {
	w.Helper()
	var secret struct{ Data map[string][]byte }
	var bundles struct{ Data map[string]string }
	w.Eventually("the administrator's certificate is there", Slow, func() string {
		for path, into := range map[string]any{"/secrets/assay-admin-tls": &secret, "/configmaps/assay-ca": &bundles} {
			if err := w.Object("/api/v1/namespaces/"+Namespace+path, into); err != nil {
				return err.Error()
			}
		}
		return ""
	})
	folder := filepath.Join(w.Home, "administrator")
	w.Must(os.MkdirAll(folder, 0o700))
	for name, data := range map[string][]byte{"cert.pem": secret.Data["tls.crt"], "key.pem": secret.Data["tls.key"], "ca.pem": []byte(bundles.Data["server-cas.pem"])} {
		w.Must(os.WriteFile(filepath.Join(folder, name), data, 0o600))
	}
	var err error
	w.API, err = client.FromFolder(w.URL(), folder)
	w.Must(err)
	w.Eventually("the server answers", Slow, func() string {
		if _, err := w.API.Server(w.Ctx); err != nil {
			return err.Error()
		}
		return ""
	})
	_, err = w.Run("assay", "login", w.URL(), "--credentials", folder)
	w.Must(err)
}

// Endorse accepts the maker of a node's TPM.
func (w *World) Endorse(node string) {
	w.Helper()
	root, err := w.Cluster.Node(node).EKRoot()
	w.Must(err)
	_, err = w.API.AddRoots(w.Ctx, root)
	w.Must(err)
}

// autopsy prints what a person would look at.
func (w *World) autopsy() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.Ctx), time.Minute)
	defer cancel()
	w.Ctx = ctx
	for _, args := range [][]string{
		{"get", "pods,ds,sts,svc,pvc,cm,secrets", "-A", "-o", "wide"}, {"get", "attestationplatforms,nodepolicies,nodereports", "-o", "yaml"}, {"get", "events", "-A"},
		{"logs", "-n", Namespace, "deploy/assay-operator", "--tail=60"}, {"logs", "-n", Namespace, "sts/assay-server", "--tail=40"},
		{"logs", "-n", Namespace, "-l", "app.kubernetes.io/part-of=assay", "--all-containers", "--prefix", "--tail=20"},
	} {
		out, err := w.Cluster.Kubectl(ctx, args...)
		w.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}

// Object reads any object of the API into v.
func (w *World) Object(path string, v any) error { return w.Cluster.Get(w.Ctx, path, v) }

// Patch changes an object by a JSON merge patch.
func (w *World) Patch(kind, name string, change any) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = w.Cluster.Kubectl(w.Ctx, "patch", kind, name, "--type=merge", "--patch", string(text))
	return err
}

// Volume makes the volume that the server's claim is bound to: this cluster has no provisioner.
func (w *World) Volume() {
	w.Helper()
	const path = "/var/lib/assay-data"
	_, err := w.Cluster.Node("node1").Output(w.Ctx, "mkdir", "-p", path)
	w.Must(err)
	w.Must(w.Cluster.Apply(w.Ctx, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: assay-data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: `+VolumeClass+`
  local: {path: `+path+`}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
`))
}

// Kubectl is for what an administrator does.
func (w *World) Kubectl(args ...string) {
	w.Helper()
	_, err := w.Cluster.Kubectl(w.Ctx, args...)
	w.Must(err)
}

// PcrDocument asks for the values that PCR 0 to 7 have on a node now.
func (w *World) PcrDocument(node, name string) string {
	w.Helper()
	report := w.Report(node)
	out, err := w.Run("assay", "policy", "create", "pcr", name, "--node", report.Status.Agent)
	w.Must(err)
	file := filepath.Join(w.Home, name+".yaml")
	w.Must(os.WriteFile(file, []byte(out), 0o600))
	return w.AddDocument(file)
}

// AddDocument stores a document and returns its digest.
func (w *World) AddDocument(file string) string {
	w.Helper()
	text, err := os.ReadFile(file)
	w.Must(err)
	stored, err := w.API.AddPolicy(w.Ctx, text, "")
	w.Must(err)
	return stored.Digest.String()
}
