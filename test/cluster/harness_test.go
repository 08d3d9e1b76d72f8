package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

const toolImage = "assay.test/tool:1"

// programs is the folder with the programs under test, and toolArchive an image of the tests' own.
var programs, toolArchive string

// holdFolder is set for a process that makes a cluster and waits to be killed.
const holdFolder = "ASSAY_TEST_HOLD"

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	if folder := os.Getenv(holdFolder); folder != "" {
		os.Exit(hold(folder))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "assay-cluster-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(folder)
	programs, toolArchive = folder, filepath.Join(folder, "tool.tar")
	for _, pkg := range []string{"../../cmd/assay", "../../cmd/assay-labinit", "./tool"} {
		build := exec.Command("go", "build", "-o", folder+"/", pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	image := cluster.Image{Name: toolImage, Files: map[string]string{"/tool": filepath.Join(folder, "tool")}, Entrypoint: []string{"/tool"}}
	if err := cluster.WriteImage(toolArchive, image); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// hold makes a cluster, says so, and leaves it to its parent to end this process.
func hold(folder string) int {
	if _, err := cluster.Up(context.Background(), cluster.Config{Dir: folder}); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("up")
	select {}
}

// folder is one for a cluster, and holds the host's one place for machines until the test ends.
func folder(t *testing.T) string {
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
	return shortFolder(t)
}

// shortFolder is a folder with a short path. A cluster in it ends with the test, whatever has become of either.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "c-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if c, err := cluster.Attach(dir); err == nil {
			if err := c.Down(context.Background()); err != nil {
				t.Error(err)
			}
		}
		os.RemoveAll(dir)
	})
	return dir
}

// up makes a cluster of the first node in dir.
func up(t *testing.T, dir string) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Up(t.Context(), cluster.Config{
		Dir: dir, Program: filepath.Join(programs, "assay"), Images: []string{toolArchive}, Progress: func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func apply(t *testing.T, c *cluster.Cluster, yaml string) {
	t.Helper()
	if err := c.Apply(t.Context(), yaml); err != nil {
		t.Fatal(err)
	}
}

// kubectl runs kubectl, which must succeed.
func kubectl(t *testing.T, c *cluster.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// awaitPod waits until a pod of the default namespace is Ready.
func awaitPod(t *testing.T, c *cluster.Cluster, name string) {
	t.Helper()
	if _, err := c.Kubectl(t.Context(), "wait", "--for=condition=Ready", "--timeout=120s", "pod/"+name); err != nil {
		state, _ := c.Kubectl(t.Context(), "describe", "pod", name)
		t.Fatalf("%v\n%s", err, state)
	}
}

// pod is the manifest of a pod that runs the tool.
func pod(name, node string, args ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %[1]s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: tool
    image: %s
    imagePullPolicy: Never
    args: ["%s"]
    volumeMounts: [{name: assay, mountPath: /token, readOnly: true}, {name: tpm, mountPath: %[5]s}]
  volumes:
  - {name: tpm, hostPath: {path: %[5]s, type: DirectoryOrCreate}}
  - name: assay
    projected: {sources: [{serviceAccountToken: {audience: assay, path: token}}]}
`, name, node, toolImage, strings.Join(args, `","`), cluster.TPMDir)
}

// assay runs the command line program.
func assay(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs, "assay"), args...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	return out.String(), complaints.String(), err
}

// eventually repeats a question until it has no answer against it.
func eventually(t *testing.T, patience time.Duration, question func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		err := question()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", patience, err)
		}
	}
}
