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

	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/traces"
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
	host := traces.Before(t, dir)
	parent := held(t, dir)
	host.Follow(t)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.NothingLeft(t)
}

// TestParentKilledEarly: the same while the cluster is being made.
func TestParentKilledEarly(t *testing.T) {
	dir := folder(t)
	host := traces.Before(t, dir)
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
	host.Follow(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.NothingLeft(t)
}

// TestSupervisorKilled: the supervisor gets SIGKILL. The kernel ends the nodes; Down removes the rest. What is left until then is in the way of no other
// cluster.
func TestSupervisorKilled(t *testing.T) {
	dir := folder(t)
	host := traces.Before(t, dir)
	held(t, dir)
	host.Follow(t)
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
	host.NothingRuns(t)
	killed, err := cluster.Attach(dir)
	if err != nil {
		t.Fatal(err)
	}
	other := up(t, shortFolder(t))
	if other.Server() == killed.Server() {
		t.Errorf("the next cluster has the address %s too, and so the cgroups of the one that was killed", other.Server())
	}
	for _, c := range []*cluster.Cluster{killed, other} {
		if err := c.Down(context.Background()); err != nil {
			t.Error(err)
		}
	}
	host.NothingLeft(t)
}

// TestFailureLeavesNothing: an image that is none is found late, when the node runs.
func TestFailureLeavesNothing(t *testing.T) {
	dir := folder(t)
	host := traces.Before(t, dir)
	bad := filepath.Join(t.TempDir(), "bad.tar")
	if err := os.WriteFile(bad, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := cluster.Up(t.Context(), cluster.Config{Dir: dir, Images: []string{bad}})
	if err == nil || !strings.Contains(err.Error(), "import image "+bad) {
		t.Errorf("%v", err)
	}
	host.NothingLeft(t)
}
