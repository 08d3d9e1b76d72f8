package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/world"
)

const (
	program  = "/usr/bin/nightly-backup"
	original = "#!/bin/sh\necho backup done\n"
	evil     = "#!/bin/sh\necho something else\n"
)

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	os.Exit(m.Run())
}

// story is the cluster that it is about.
type story struct {
	*world.World
	// vm1 is the id of vm1's agent.
	vm1 attest.AgentID
}

// machine is the lab machine of the story, with the IMA policy for hosts with containers.
func machine(name string) cluster.Worker {
	return cluster.Worker{Name: name, Kind: cluster.Machine, Machine: lab.Config{IMAPolicy: ima.ContainersPolicy()}}
}

// TestCluster is the way of a cluster from the installation of the chart to its removal. Its steps build on each other.
func TestCluster(t *testing.T) {
	vm := machine("vm1")
	vm.Machine.Files = []lab.File{{Path: program, Mode: 0o755, Data: []byte(original)}}
	w := &story{World: world.New(t, cluster.Worker{Name: "node2", Kind: cluster.Native}, vm)}
	w.Story(t, world.Steps{
		{"install the chart", w.install},
		{"without policies everything is Unappraised", w.everythingIsUnappraised},
		{"with policies machines are Trusted", w.trusted},
		{"foreign tokens are refused", w.foreignTokens},
		{"in Observe a tampered machine is reported and not touched", w.observed},
		{"under Enforce it is tainted", w.enforced},
		{"its own credentials do not help it", w.kubeletCredentials},
		{"restored and rebooted it is let in again", w.restored},
		{"verdicts over the life of nodes and servers", w.lifecycle},
		{"upgrade", w.upgraded},
		{"uninstall", w.uninstalled},
	})
}

// install installs the chart and accepts the maker of the machine's TPM.
func (w *story) install() {
	w.Helper()
	w.Volume()
	w.Must(w.Helm("install", w.values()))
	w.Login()
	w.Endorse("vm1")
}

func (w *story) values() string {
	return fmt.Sprintf(`images: {registry: localhost, tag: %q, pullPolicy: Never}
server:
  service: {type: NodePort, nodePorts: {api: %d, registrar: %d}}
  storage: {className: lab}
  hosts: [%q]
  interval: 2s
  nodeSelector: {kubernetes.io/hostname: node1}
agent: {tpm: Emulated, emulatedNodeSelector: {kubernetes.io/hostname: node1}, heartbeat: 5s}
operator: {nodeSelector: {kubernetes.io/hostname: node1}}
`, w.Tag, world.APIPort, world.RegistrarPort, w.Cluster.Node("node1").Address())
}

// everythingIsUnappraised: without policies nothing is trusted and nothing is tainted.
func (w *story) everythingIsUnappraised() {
	w.Helper()
	for _, name := range []string{"vm1", "node1", "node2"} {
		w.Await(name, "Unappraised", "")
	}
	w.Condition("node2", v1alpha1.ConditionTpmPresent, metav1.ConditionFalse, "NoTpm")
	w.Condition("vm1", v1alpha1.ConditionTpmPresent, metav1.ConditionTrue, "")
	w.Condition("vm1", v1alpha1.ConditionEndorsed, metav1.ConditionTrue, "")
	if r := w.Report("node1"); !r.Status.Emulated {
		w.Errorf("node1's TPM is an emulator, and its report does not say so: %s", world.Summary(r))
	}
	w.Untouched("vm1", "node1", "node2")
}

// runtimeDocument is made from the machine's tree and the list of its first boot: a golden node.
func (w *story) runtimeDocument(name string) string {
	w.Helper()
	m := w.Cluster.Node("vm1").Machine()
	list, err := m.ReadFile(w.Ctx, "/sys/kernel/security/ima/ascii_runtime_measurements")
	w.Must(err)
	files := map[string][]byte{"list": list, "containers.policy": ima.ContainersPolicy()}
	for file, text := range files {
		w.Must(os.WriteFile(filepath.Join(w.Home, file), text, 0o600))
	}
	out := filepath.Join(w.Home, name+".yaml")
	_, err = w.Run("assay", "policy", "create", "runtime", name, "--tree", m.Tree(), "--list", filepath.Join(w.Home, "list"),
		"--ima-policy", filepath.Join(w.Home, "containers.policy"), "--out", out)
	w.Must(err)
	return w.AddDocument(out)
}

// assign stores documents made from the nodes and lets NodePolicies demand them.
func (w *story) assign() {
	w.Helper()
	runtime, boot, pcr := w.runtimeDocument("workers-runtime"), w.PcrDocument("vm1", "workers-boot"), w.PcrDocument("node1", "node1-pcr")
	var emulators []string
	roots, err := w.API.Roots(w.Ctx)
	w.Must(err)
	for _, r := range roots {
		if r.Emulated {
			emulators = append(emulators, r.Fingerprint.String())
		}
	}
	w.Must(w.Cluster.Apply(w.Ctx, fmt.Sprintf(`
apiVersion: integrity.assay.dev/v1alpha1
kind: NodePolicy
metadata: {name: workers}
spec:
  selector: {names: [vm1]}
  runtime: {name: workers-runtime, digest: %q}
  pcr: {name: workers-boot, digest: %q}
  containerFiles: Ignore
  reactions: {kinds: [Taint, Label, Notify], budget: 1}
---
apiVersion: integrity.assay.dev/v1alpha1
kind: NodePolicy
metadata: {name: control-plane}
spec:
  selector: {names: [node1]}
  pcr: {name: node1-pcr, digest: %q}
  endorsedBy: [%s]
`, runtime, boot, pcr, strings.Join(emulators, ","))))
}

// trusted: each machine is Trusted under the policies that were made for it, by name.
func (w *story) trusted() {
	w.Helper()
	w.assign()
	r := w.Await("vm1", "Trusted", "workers")
	var names []string
	for _, d := range r.Status.Documents {
		names = append(names, d.Kind+"/"+d.Name)
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "Runtime/workers-runtime") || !strings.Contains(got, "Pcr/workers-boot") {
		w.Errorf("vm1 is Trusted under %s, not under its two documents", got)
	}
	w.Await("node1", "Trusted", "control-plane")
	w.Await("node2", "Unappraised", "")
}

// observed: without Enforce a tampered machine is reported and not touched.
func (w *story) observed() {
	w.Helper()
	w.tamper()
	r := w.Await("vm1", "Failed", "workers")
	if len(r.Status.Failures) == 0 || r.Status.Failures[0].ID != "FileDigestMismatch" || r.Status.Failures[0].Path != program {
		w.Errorf("the failure does not name the program: %s", world.Summary(r))
	}
	w.Event("vm1", "VerdictFailed", program)
	w.Never("in Observe nothing is touched", 10*time.Second, func() string {
		if w.Tainted("vm1") {
			return "vm1 is tainted"
		}
		return ""
	})
}

// enforced: the same failure under Enforce has consequences.
func (w *story) enforced() {
	w.Helper()
	w.Must(w.Patch("nodepolicy", "workers", map[string]any{"spec": map[string]any{"mode": "Enforce"}}))
	w.Eventually("vm1 is tainted", world.Slow, func() string {
		if !w.Tainted("vm1") {
			return world.Summary(w.Report("vm1"))
		}
		return ""
	})
	w.Eventually("vm1 is labelled Failed", time.Minute, func() string {
		if got := w.Node("vm1").Metadata.Labels[v1alpha1.LabelVerdict]; got != "Failed" {
			return fmt.Sprintf("the verdict's label is %q", got)
		}
		return ""
	})
	w.Untouched("node1", "node2")
}

// restored: the file is restored, the machine rebooted, and trust returns without a hand laid on the node.
func (w *story) restored() {
	w.Helper()
	w.Must(w.Cluster.Node("vm1").Machine().WriteFile(w.Ctx, program, 0o755, []byte(original)))
	w.Must(w.Cluster.Node("vm1").Reboot(w.Ctx))
	w.Tell("vm1 has rebooted")
	w.Await("vm1", "Trusted", "workers")
	w.Eventually("vm1's taint is gone", world.Slow, func() string {
		if w.Tainted("vm1") {
			return "it is tainted"
		}
		return ""
	})
}

// tamper changes the program on vm1 and runs it.
func (w *story) tamper() {
	w.Helper()
	m := w.Cluster.Node("vm1").Machine()
	w.Must(m.WriteFile(w.Ctx, program, 0o755, []byte(evil)))
	_, err := m.Output(w.Ctx, program)
	w.Must(err)
	w.Tell("%s was changed and run on vm1", program)
}

// uninstalled: the removal leaves nothing but what is kept: CRDs, their objects and the volume.
func (w *story) uninstalled() {
	w.Helper()
	_, err := w.Run("helm", "uninstall", "assay", "--namespace", world.Namespace)
	w.Must(err)
	w.Tell("helm uninstall")
	for _, name := range []string{"vm1", "node1", "node2"} {
		n := w.Node(name)
		for label := range n.Metadata.Labels {
			if strings.Contains(label, "assay") {
				w.Errorf("%s keeps the label %s", name, label)
			}
		}
	}
	w.Untouched("vm1", "node1", "node2")
	left, err := w.Cluster.Kubectl(w.Ctx, "get", "ds,sts,deploy,svc,sa,cm,secret,role,rolebinding,clusterrole,clusterrolebinding", "-A", "-o", "name", "-l", "app.kubernetes.io/part-of=assay")
	w.Must(err)
	if strings.TrimSpace(left) != "" {
		w.Errorf("left behind:\n%s", left)
	}
}
