package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/traces"
)

// TestCluster: one cluster after another would cost a minute each, so the story of one is told in parts.
func TestCluster(t *testing.T) {
	dir := folder(t)
	host := traces.Before(t, dir)
	began := time.Now()
	c := up(t, dir)
	t.Logf("from an empty folder to a node that is Ready, with DNS: %.1f s", time.Since(began).Seconds())

	t.Run("pod runs and takes commands", func(t *testing.T) { testPod(t, c) })
	t.Run("services and their names", func(t *testing.T) { testService(t, c) })
	t.Run("token tells the node", func(t *testing.T) { testToken(t, c, "first", "node1") })
	t.Run("TPM of the native node", func(t *testing.T) { testTPM(t, c, "first", cluster.TPMDir+"/tpm.sock") })
	t.Run("native worker", func(t *testing.T) { testNativeWorker(t, c) })
	t.Run("control plane restarts", func(t *testing.T) { testRestart(t, c) })
	t.Run("lab machine joins", func(t *testing.T) { testMachine(t, c) })

	host.Follow(t)
	if err := c.Down(t.Context()); err != nil {
		t.Fatal(err)
	}
	host.NothingLeft(t)
}

func testPod(t *testing.T, c *cluster.Cluster) {
	apply(t, c, pod("first", "node1", "wait"))
	awaitPod(t, c, "first")
	if out := kubectl(t, c, "exec", "first", "--", "/tool", "cat", "/proc/1/comm"); out != "tool" {
		t.Errorf("process 1 of the pod is %q, want the image's entry point", out)
	}
	if _, err := c.Kubectl(t.Context(), "exec", "first", "--", "/tool", "dance"); err == nil {
		t.Error("a command that fails in the pod did not fail")
	}
}

func testService(t *testing.T, c *cluster.Cluster) {
	apply(t, c, pod("server", "node1", "serve", ":8080")+`
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
`)
	awaitPod(t, c, "server")
	ip := kubectl(t, c, "get", "service", "server", "-o", "jsonpath={.spec.clusterIP}")
	if out := kubectl(t, c, "exec", "first", "--", "/tool", "resolve", "server.default.svc.cluster.local"); out != ip {
		t.Errorf("the service's name is %q, want %s", out, ip)
	}
	reach(t, c, "first")
	if _, err := c.Kubectl(t.Context(), "exec", "first", "--", "/tool", "resolve", "nobody.default.svc.cluster.local"); err == nil {
		t.Error("a service that does not exist has a name")
	}
}

// reach calls the service by its short name from a pod. kube-proxy follows the API server with some delay.
func reach(t *testing.T, c *cluster.Cluster, from string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		out, err := c.Kubectl(t.Context(), "exec", from, "--", "/tool", "get", "http://server/")
		if err == nil && out != "server" {
			err = fmt.Errorf("the service answers %q", out)
		}
		return err
	})
}

// testToken: what the operator's identity of nodes rests on.
func testToken(t *testing.T, c *cluster.Cluster, name, node string) {
	token := kubectl(t, c, "exec", name, "--", "/tool", "cat", "/token/token")
	review := func(audience string) (authenticated bool, extra map[string][]string) {
		request := filepath.Join(t.TempDir(), "review.json")
		text := fmt.Sprintf(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":%q,"audiences":[%q]}}`, token, audience)
		if err := os.WriteFile(request, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Status struct {
				Authenticated bool
				User          struct{ Extra map[string][]string }
			}
		}
		if err := json.Unmarshal([]byte(kubectl(t, c, "create", "-o", "json", "-f", request)), &answer); err != nil {
			t.Fatal(err)
		}
		return answer.Status.Authenticated, answer.Status.User.Extra
	}
	uid, err := c.Node(node).UID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good, extra := review("assay")
	const key = "authentication.kubernetes.io/"
	if !good || !slices.Equal(extra[key+"node-name"], []string{node}) || !slices.Equal(extra[key+"node-uid"], []string{uid}) {
		t.Errorf("authenticated: %v, as %v; want node %s with UID %s", good, extra, node, uid)
	}
	if good, _ := review("somebody-else"); good {
		t.Error("the token is good for another audience")
	}
}

func testTPM(t *testing.T, c *cluster.Cluster, name, path string) {
	if out := kubectl(t, c, "exec", name, "--", "/tool", "tpm", path); out != "00000000" {
		t.Errorf("TPM2_ReadClock answers %s", out)
	}
}

func testNativeWorker(t *testing.T, c *cluster.Cluster) {
	n, err := c.AddWorker(t.Context(), cluster.Worker{Name: "node2", Kind: cluster.Native})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, c, pod("second", "node2", "wait"))
	awaitPod(t, c, "second")
	reach(t, c, "second")
	testToken(t, c, "second", "node2")
	if _, err := n.EKRoot(); err == nil {
		t.Error("a native worker has a TPM")
	}
	if _, err := c.Kubectl(t.Context(), "exec", "second", "--", "/tool", "tpm", cluster.TPMDir+"/tpm.sock"); err == nil {
		t.Error("a pod of a native worker reaches a TPM")
	}
	if _, err := c.AddWorker(t.Context(), cluster.Worker{Name: "node2", Kind: cluster.Native}); err == nil {
		t.Error("a second node of the same name was taken")
	}
}

func testRestart(t *testing.T, c *cluster.Cluster) {
	n := c.Node("node1")
	if err := n.Stop(t.Context(), cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := n.Ready(t.Context()); err == nil {
		t.Error("the API server answers though it was stopped")
	}
	if err := n.Start(t.Context(), cluster.APIServer); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
	for _, service := range []string{cluster.ControllerManager, cluster.Kubelet} {
		if err := n.Restart(t.Context(), service); err != nil {
			t.Error(err)
		}
	}
	if err := n.Restart(t.Context(), "kube-dance"); err == nil || !strings.Contains(err.Error(), `no service "kube-dance"`) {
		t.Errorf("restart of a service that does not exist: %v", err)
	}
	if err := n.WaitReady(t.Context(), time.Minute); err != nil {
		t.Error(err)
	}
}

func testMachine(t *testing.T, c *cluster.Cluster) {
	need.Lab(t)
	began := time.Now()
	n, err := c.AddWorker(t.Context(), cluster.Worker{Name: "vm1", Kind: cluster.Machine})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from nothing to a lab machine that is a Ready node and has the images: %.1f s", time.Since(began).Seconds())
	apply(t, c, pod("guest", "vm1", "wait"))
	awaitPod(t, c, "guest")
	reach(t, c, "guest")
	testToken(t, c, "guest", "vm1")
	measured(t, n)
	began = time.Now()
	if err := n.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("reboot: Ready again after %.1f s", time.Since(began).Seconds())
	eventually(t, 3*time.Minute, func() error {
		out, err := c.Kubectl(t.Context(), "get", "pod", "guest", "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		if err == nil && out == "0" {
			err = errors.New("the pod has not been restarted")
		}
		return err
	})
	awaitPod(t, c, "guest")
	reach(t, c, "guest")
	measured(t, n)
}

// measured: IMA saw the pod's program, and the machine has a TPM.
func measured(t *testing.T, n *cluster.Node) {
	t.Helper()
	list, err := n.Output(t.Context(), "cat", "/sys/kernel/security/ima/ascii_runtime_measurements")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"/usr/bin/hyperkube", "/tool"} {
		if !strings.Contains(list, " "+want+"\n") {
			t.Errorf("%s ran and is not in the measurement list", want)
		}
	}
	if _, err := n.Output(t.Context(), "ls", "/dev/tpmrm0"); err != nil {
		t.Error(err)
	}
}

// TestSeparateProcesses: up, kubeconfig and down are three runs of the program.
func TestSeparateProcesses(t *testing.T) {
	dir := folder(t)
	host := traces.Before(t, dir)
	if _, complaint, err := assay(t, "lab", "cluster", "down", "--dir", dir); err == nil || !strings.Contains(complaint, "no lab cluster in "+dir) {
		t.Errorf("down of nothing: %v: %s", err, complaint)
	}
	out, told, err := assay(t, "lab", "cluster", "up", "--dir", dir)
	if err != nil {
		t.Fatalf("%v: %s", err, told)
	}
	if !strings.Contains(out, dir+"/kubeconfig") || !strings.Contains(told, "node1 is Ready") {
		t.Errorf("up said %q and %q", out, told)
	}
	if _, complaint, err := assay(t, "lab", "cluster", "up", "--dir", dir); err == nil || !strings.Contains(complaint, "the folder is not empty") {
		t.Errorf("up twice: %v: %s", err, complaint)
	}
	config, complaint, err := assay(t, "lab", "cluster", "kubeconfig", "--dir", dir)
	if err != nil || !strings.Contains(config, "client-certificate-data") {
		t.Errorf("%v: %s", err, complaint)
	}
	host.Follow(t)
	if _, complaint, err := assay(t, "lab", "cluster", "down", "--dir", dir); err != nil {
		t.Errorf("%v: %s", err, complaint)
	}
	host.NothingLeft(t)
}
