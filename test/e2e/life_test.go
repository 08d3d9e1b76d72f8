package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/world"
)

// kubelet runs kubectl with the credentials of vm1's own kubelet, as whoever took the machine could.
func (w *story) kubelet(args ...string) (string, error) {
	w.Helper()
	config := filepath.Join(w.Home, "kubelet.kubeconfig")
	if _, err := os.Stat(config); err != nil {
		w.Must(os.WriteFile(config, w.stolen(), 0o600))
	}
	kubectl, err := w.Cluster.Program("kubectl")
	w.Must(err)
	out, err := exec.CommandContext(w.Ctx, kubectl, append([]string{"--kubeconfig", config}, args...)...).CombinedOutput()
	return string(out), err
}

// stolen is the kubelet's kubeconfig with the key in it.
func (w *story) stolen() []byte {
	w.Helper()
	m := w.Cluster.Node("vm1").Machine()
	text, err := m.ReadFile(w.Ctx, "/var/lib/kubelet/kubeconfig")
	w.Must(err)
	var config map[string]any
	w.Must(yaml.Unmarshal(text, &config))
	pair, err := m.ReadFile(w.Ctx, "/var/lib/kubelet/pki/kubelet-client-current.pem")
	w.Must(err)
	encoded := base64.StdEncoding.EncodeToString(pair)
	for _, user := range config["users"].([]any) {
		user.(map[string]any)["user"] = map[string]any{"client-certificate-data": encoded, "client-key-data": encoded}
	}
	text, err = yaml.Marshal(config)
	w.Must(err)
	return text
}

// kubeletCredentials: whoever holds the machine holds its kubelet's credentials. They do not get it out of a policy or out of quarantine.
func (w *story) kubeletCredentials() {
	w.Helper()
	for _, args := range [][]string{{"cordon", "vm1"}, {"uncordon", "vm1"}, {"label", "node", "vm1", "disguise=harmless"}} {
		if out, err := w.kubelet(args...); err != nil {
			w.Errorf("kubectl %s, which kubelets may: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	for _, args := range [][]string{
		{"taint", "node", "vm1", v1alpha1.TaintUntrusted + "-"},
		{"label", "--overwrite", "node", "vm1", v1alpha1.LabelVerdict + "=Trusted"},
		{"label", "node", "vm1", v1alpha1.LabelVerdict + "-"},
		{"delete", "node", "vm1"},
		{"delete", "nodepolicy", "workers"},
		{"patch", "nodereport", "vm1", "--subresource=status", "--type=merge", "--patch", `{"status":{"verdict":"Trusted"}}`},
	} {
		if out, err := w.kubelet(args...); err == nil {
			w.Errorf("a kubelet may: kubectl %s: %s", strings.Join(args, " "), out)
		}
	}
	w.Never("vm1 stays Failed, tainted, and under its policy", 10*time.Second, func() string {
		if r := w.Report("vm1"); r.Status.Verdict != "Failed" || r.Status.Policy != "workers" {
			return world.Summary(r)
		}
		if n := w.Node("vm1"); !w.Tainted("vm1") || n.Metadata.Labels[v1alpha1.LabelVerdict] != "Failed" {
			return fmt.Sprintf("taints %v, labels %v", n.Spec.Taints, n.Metadata.Labels)
		}
		return ""
	})
}

// agent is vm1's: the hash of its TPM's endorsement key, which stays.
func (w *story) agent() attest.AgentID {
	w.Helper()
	if w.vm1 == "" {
		w.vm1 = attest.AgentID(w.Report("vm1").Status.Agent)
	}
	return w.vm1
}

// history is what vm1's verdict was since a transition, as "From -> To (cause)".
func (w *story) history(after uint64) (lines []string, last uint64) {
	w.Helper()
	results, err := w.API.Results(w.Ctx, w.agent())
	w.Must(err)
	for _, t := range results {
		if t.Seq > after {
			lines = append(lines, fmt.Sprintf("%s -> %s (%s)", t.From, t.To, t.Cause))
		}
		last = t.Seq
	}
	return lines, last
}

// rounds waits until vm1 has been accepted a few times more.
func (w *story) rounds() {
	w.Helper()
	id := w.agent()
	before, err := w.API.Node(w.Ctx, id)
	w.Must(err)
	w.Eventually("rounds of vm1 go on", world.Slow, func() string {
		now, err := w.API.Node(w.Ctx, id)
		if err != nil {
			return err.Error()
		}
		if now.Accepted < before.Accepted+3 {
			return fmt.Sprintf("%d accepted, %d before; trouble %+v", now.Accepted, before.Accepted, now.Trouble)
		}
		return ""
	})
}

// lifecycle: what happens to nodes and servers every day changes no verdict, and a failure in the middle of it is not lost.
func (w *story) lifecycle() {
	w.Helper()
	for _, row := range []struct {
		what string
		do   func()
		want []string // transitions of vm1
	}{
		{"cordon", func() { w.Kubectl("cordon", "vm1") }, nil},
		{"drain", func() {
			w.Kubectl("drain", "vm1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=120s")
		}, nil},
		{"uncordon", func() { w.Kubectl("uncordon", "vm1") }, nil},
		{"server pod killed", w.serverKilled, nil},
		{"API server restarted", w.apiServerRestarted, nil},
		{"certificates rotated", w.rotate, nil},
		{"operator killed in mid-reaction", w.operatorKilled, []string{"Trusted -> Failed (round)"}},
		{"restored and rebooted", w.restored, []string{"Failed -> Trusted (reboot)"}},
		{"node deleted and added again", w.readded, nil},
	} {
		_, before := w.history(0)
		row.do()
		w.rounds()
		got, _ := w.history(before)
		if diff := cmp.Diff(row.want, got); diff != "" {
			w.Errorf("%s: transitions of vm1 (-want +got):\n%s", row.what, diff)
		}
		w.Tell("%s: %s", row.what, strings.Join(append(got, "nothing else"), ", "))
	}
}

func (w *story) apiServerRestarted() {
	w.Helper()
	w.Must(w.Cluster.Node("node1").Restart(w.Ctx, cluster.APIServer))
	w.Eventually("the API server answers again", world.Slow, func() string {
		if err := w.Object(world.Group+"nodereports/vm1", new(v1alpha1.NodeReport)); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (w *story) serverKilled() {
	w.Helper()
	type pod struct {
		Metadata struct{ UID string }
		Status   struct{ ContainerStatuses []struct{ Ready bool } }
	}
	var before pod
	w.Must(w.Object("/api/v1/namespaces/"+world.Namespace+"/pods/assay-server-0", &before))
	w.Kubectl("delete", "pod", "-n", world.Namespace, "assay-server-0", "--force", "--grace-period=0")
	w.Eventually("another server answers", world.Slow, func() string {
		var now pod
		if err := w.Object("/api/v1/namespaces/"+world.Namespace+"/pods/assay-server-0", &now); err != nil {
			return err.Error()
		}
		if now.Metadata.UID == before.Metadata.UID || len(now.Status.ContainerStatuses) == 0 || !now.Status.ContainerStatuses[0].Ready {
			return "its pod is not ready"
		}
		if _, err := w.API.Server(w.Ctx); err != nil {
			return err.Error()
		}
		return ""
	})
}

// rotated are values that start a rotation. They stay: another text, also none, would start the next.
const rotated = "certificates: {rotation: \"1\", overlap: 30s}\n"

// rotate replaces the CAs; everybody takes up the new ones while both hold.
func (w *story) rotate() {
	w.Helper()
	cas := func() string {
		var m struct{ Data map[string]string }
		w.Must(w.Object("/api/v1/namespaces/"+world.Namespace+"/configmaps/assay-ca", &m))
		return m.Data["server-cas.pem"]
	}
	before := cas()
	w.Must(w.Helm("upgrade", w.values()+rotated))
	w.Eventually("new CAs are in use and the old ones are gone", world.Slow, func() string {
		now := cas()
		if now == before || strings.Contains(now, strings.TrimSpace(before)) {
			return fmt.Sprintf("%d CAs", strings.Count(now, "BEGIN CERTIFICATE"))
		}
		return ""
	})
	w.Login()
}

// operatorKilled tampers, and kills the operator while it works on the reaction.
func (w *story) operatorKilled() {
	w.Helper()
	w.tamper()
	w.Eventually("a reaction is decided", world.Slow, func() string {
		open, err := w.API.Reactions(w.Ctx, "open")
		if err != nil {
			return err.Error()
		}
		if len(open) == 0 {
			return "none"
		}
		return ""
	})
	w.Kubectl("delete", "pod", "-n", world.Namespace, "-l", "app.kubernetes.io/name=assay-operator", "--force", "--grace-period=0")
	w.Eventually("vm1 is tainted by the next operator", world.Slow, func() string {
		if !w.Tainted("vm1") {
			return world.Summary(w.Report("vm1"))
		}
		return ""
	})
}

// readded deletes the Node object; the kubelet makes it anew, with another UID.
func (w *story) readded() {
	w.Helper()
	before := w.Node("vm1").Metadata.UID
	w.Kubectl("delete", "node", "vm1")
	_, err := w.Cluster.Node("vm1").Output(w.Ctx, "/bin/sh", "-c", "kill $(pidof kubelet)")
	w.Must(err)
	w.Must(w.Cluster.Node("vm1").WaitReady(w.Ctx, world.Slow))
	if after := w.Node("vm1").Metadata.UID; after == before {
		w.Fatalf("the Node kept its UID %s", before)
	}
	w.Await("vm1", "Trusted", "workers")
}

// upgraded: new values reach what the operator made.
func (w *story) upgraded() {
	w.Helper()
	w.Must(w.Helm("upgrade", strings.Replace(w.values(), "interval: 2s", "interval: 3s", 1)+rotated))
	w.Eventually("the server runs with the new interval", world.Slow, func() string {
		s, err := w.API.Server(w.Ctx)
		if err != nil {
			return err.Error()
		}
		if s.Interval != 3 {
			return fmt.Sprintf("it is %v s", s.Interval)
		}
		return ""
	})
	w.Await("vm1", "Trusted", "workers")
}
