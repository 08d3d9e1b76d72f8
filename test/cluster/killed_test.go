package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-project/assay/lab/cluster"
)

// held starts a process that makes a cluster in dir and waits until it has.
func held(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), holdFolder+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "up\n" {
		t.Fatalf("the process that was to make a cluster said %q: %v", line, err)
	}
	return cmd
}

// TestParentKilled: the process that made the cluster gets SIGKILL.
func TestParentKilled(t *testing.T) {
	dir := folder(t)
	before := look(t)
	parent := held(t, dir)
	spaces := namespaces(t, dir)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, before, dir, spaces)
}

// TestParentKilledEarly: the same while the cluster is being made.
func TestParentKilledEarly(t *testing.T) {
	dir := folder(t)
	before := look(t)
	cmd := exec.Command(filepath.Join(programs, "assay"), "lab", "cluster", "up", "--dir", dir)
	told, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(told); lines.Scan(); {
		if strings.Contains(lines.Text(), "containerd has the images") {
			break
		}
	}
	spaces := namespaces(t, dir)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, before, dir, spaces)
}

// TestSupervisorKilled: the supervisor gets SIGKILL. The kernel ends the nodes; Down removes the rest.
func TestSupervisorKilled(t *testing.T) {
	dir := folder(t)
	before := look(t)
	held(t, dir)
	spaces := namespaces(t, dir)
	var run struct{ Supervisor struct{ PID int } }
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &run); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(run.Supervisor.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() error { return noProcess("/nowhere", spaces) })
	c, err := cluster.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(context.Background()); err != nil {
		t.Error(err)
	}
	nothingLeft(t, before, dir, spaces)
}

// TestFailureLeavesNothing: an image that is none is found late, when the node runs.
func TestFailureLeavesNothing(t *testing.T) {
	dir := folder(t)
	before := look(t)
	bad := filepath.Join(t.TempDir(), "bad.tar")
	if err := os.WriteFile(bad, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := cluster.Up(t.Context(), cluster.Config{Dir: dir, Images: []string{bad}})
	if err == nil || !strings.Contains(err.Error(), "import image "+bad) {
		t.Errorf("%v", err)
	}
	nothingLeft(t, before, dir, nil)
}
