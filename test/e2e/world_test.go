// Package e2e holds the tests of the whole product in a real Kubernetes cluster: real API server, kubelets and containerd, the chart, the images that
// are published, a lab machine with a TPM and IMA as a worker. Each test is a story: its steps build on each other.
package e2e

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

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

const (
	root      = "../.."
	namespace = "assay-system"
	apiPort   = 30443 // NodePort of the native API
	// slow bounds what waits for an emulated machine that shares its host.
	slow = 4 * time.Minute
	// storyTime bounds a whole story.
	storyTime = 20 * time.Minute
)

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	os.Exit(m.Run())
}

// world is one cluster with the product in it.
type world struct {
	*testing.T
	ctx     context.Context
	cluster *cluster.Cluster
	// api is an administrator's client of the server in the cluster, set by login.
	api *client.Client
	// home holds credentials and documents; it goes with the test.
	home string
	// tag is the images'.
	tag string
	// vm1 is the id of vm1's agent.
	vm1   attest.AgentID
	start time.Time
}

// step is a part of a story.
type step struct {
	name string
	run  func(*world)
}

// story plays steps in order; after one that failed there is no sense in the next.
func (w *world) story(t *testing.T, steps []step) {
	t.Helper()
	for _, s := range steps {
		began := time.Now()
		if !t.Run(s.name, func(t *testing.T) {
			w.T = t
			s.run(w)
		}) {
			break
		}
		w.T = t
		w.tell("%s: done in %.1f s", s.name, time.Since(began).Seconds())
	}
	w.T = t
}

// tell prints a step with the time since the story began.
func (w *world) tell(format string, args ...any) {
	w.Helper()
	w.Logf("%6.1f s  %s", time.Since(w.start).Seconds(), fmt.Sprintf(format, args...))
}

// must ends the story when a step failed.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// built is the path of something that `make build` makes.
func built(t *testing.T, path string) string {
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

// newWorld starts a cluster: node1 (native, control plane), vm1 (a lab machine with TPM and IMA) and node2 (native, without a TPM) by default.
func newWorld(t *testing.T, workers ...cluster.Worker) *world {
	t.Helper()
	need.Cluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), storyTime)
	t.Cleanup(cancel)
	release, err := lab.Exclusive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
	w := &world{T: t, ctx: ctx, home: t.TempDir(), start: time.Now()}
	folder, err := os.MkdirTemp("", "c-") // t.TempDir's paths are too long for Unix sockets
	w.must(err)
	w.cluster, err = cluster.Up(ctx, cluster.Config{
		Dir: folder, Program: built(t, "assay"), Workers: workers, Images: w.images(),
		Progress: func(text string) { w.tell("%s", text) },
	})
	w.must(err)
	t.Cleanup(func() {
		if t.Failed() {
			w.autopsy()
		}
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		if err := w.cluster.Down(down); err != nil {
			t.Error(err)
		}
	})
	return w
}

// machine is the lab machine of the stories, with the IMA policy for hosts with containers.
func machine(name string) cluster.Worker {
	return cluster.Worker{Name: name, Kind: cluster.Machine, Machine: lab.Config{IMAPolicy: ima.ContainersPolicy()}}
}

func (w *world) images() []string {
	w.Helper()
	archives, err := filepath.Glob(filepath.Join(built(w.T, "images"), "*.tar"))
	w.must(err)
	if len(archives) < 4 {
		w.Fatalf("build/images holds %d archives, want the four images", len(archives))
	}
	w.tag = w.tagOf(archives[0])
	return archives
}

// tagOf reads which tag an image was built with.
func (w *world) tagOf(archive string) string {
	w.Helper()
	f, err := os.Open(archive)
	w.must(err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		w.must(err)
		if header.Name != "index.json" {
			continue
		}
		var index struct {
			Manifests []struct{ Annotations map[string]string }
		}
		w.must(json.NewDecoder(r).Decode(&index))
		return index.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
	}
}

// run runs a program of the build with the cluster's kubeconfig and returns its standard output.
func (w *world) run(program string, args ...string) (string, error) {
	w.Helper()
	cmd := exec.CommandContext(w.ctx, built(w.T, program), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.cluster.KubeconfigPath(), "HOME="+w.home, "XDG_CONFIG_HOME="+w.home, "HELM_CACHE_HOME="+w.home, "HELM_DATA_HOME="+w.home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s%s", program, strings.Join(args, " "), err, errs.String(), out.String())
	}
	return out.String(), nil
}

// helm installs or upgrades the chart with values in YAML.
func (w *world) helm(action, values string, flags ...string) error {
	w.Helper()
	file := filepath.Join(w.home, "values.yaml")
	w.must(os.WriteFile(file, []byte(values), 0o600))
	_, err := w.run("helm", append([]string{action, "assay", root + "/deploy/chart", "--namespace", namespace, "--create-namespace", "--values", file, "--wait=false"}, flags...)...)
	return err
}

// eventually asks until the answer is empty, which is what is still missing.
func (w *world) eventually(what string, patience time.Duration, missing func() string) {
	w.Helper()
	deadline := time.Now().Add(patience)
	for {
		lacking := missing()
		if lacking == "" {
			w.tell("%s", what)
			return
		}
		if time.Now().After(deadline) || w.ctx.Err() != nil {
			w.Fatalf("%s: not within %v: %s", what, patience, lacking)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// never watches that something does not happen for a while.
func (w *world) never(what string, during time.Duration, happened func() string) {
	w.Helper()
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if text := happened(); text != "" {
			w.Fatalf("%s: %s", what, text)
		}
	}
	w.tell("%s", what)
}

// login takes the administrator's certificate out of the cluster and reaches the server by the first node's port.
func (w *world) login() {
	w.Helper()
	var secret struct{ Data map[string][]byte }
	w.eventually("the administrator's certificate is there", slow, func() string {
		if err := w.cluster.Get(w.ctx, "/api/v1/namespaces/"+namespace+"/secrets/assay-admin-tls", &secret); err != nil {
			return err.Error()
		}
		return ""
	})
	folder := filepath.Join(w.home, "administrator")
	w.must(os.MkdirAll(folder, 0o700))
	for name, key := range map[string]string{"cert.pem": "tls.crt", "key.pem": "tls.key", "ca.pem": "ca.crt"} {
		w.must(os.WriteFile(filepath.Join(folder, name), secret.Data[key], 0o600))
	}
	url := fmt.Sprintf("https://%s:%d", w.cluster.Node("node1").Address(), apiPort)
	var err error
	w.api, err = client.FromFolder(url, folder)
	w.must(err)
	w.eventually("the server answers", slow, func() string {
		if _, err := w.api.Server(w.ctx); err != nil {
			return err.Error()
		}
		return ""
	})
	_, err = w.run("assay", "login", url, "--credentials", folder)
	w.must(err)
}

// autopsy prints what a person would look at.
func (w *world) autopsy() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), time.Minute)
	defer cancel()
	w.ctx = ctx
	for _, args := range [][]string{
		{"get", "pods,ds,sts,svc,pvc,cm,secrets", "-A", "-o", "wide"}, {"get", "attestationplatforms,nodepolicies,nodereports", "-o", "yaml"}, {"get", "events", "-A"},
		{"logs", "-n", namespace, "deploy/assay-operator", "--tail=60"}, {"logs", "-n", namespace, "sts/assay-server", "--tail=40"},
		{"logs", "-n", namespace, "-l", "app.kubernetes.io/part-of=assay", "--all-containers", "--prefix", "--tail=20"},
	} {
		out, err := w.cluster.Kubectl(ctx, args...)
		w.Logf("kubectl %s (%v):\n%s", strings.Join(args, " "), err, out)
	}
}

// object reads any object of the API into v.
func (w *world) object(path string, v any) error { return w.cluster.Get(w.ctx, path, v) }

// patch changes an object by a JSON merge patch.
func (w *world) patch(kind, name string, change any) error {
	text, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = w.cluster.Kubectl(w.ctx, "patch", kind, name, "--type=merge", "--patch", string(text))
	return err
}
