package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
)

const (
	program  = "/usr/bin/nightly-backup"
	original = "#!/bin/sh\necho backup done\n"
	evil     = "#!/bin/sh\necho something else\n"
)

// TestCluster is the way of a cluster from the installation of the chart to its removal. Its steps build on each other.
func TestCluster(t *testing.T) {
	vm := machine("vm1")
	vm.Machine.Files = []lab.File{{Path: program, Mode: 0o755, Data: []byte(original)}}
	w := newWorld(t, cluster.Worker{Name: "node2", Kind: cluster.Native}, vm)
	w.story(t, []step{
		{"install the chart", (*world).install},
		{"without policies everything is Unappraised", (*world).everythingIsUnappraised},
		{"with policies machines are Trusted", (*world).trusted},
		{"foreign tokens are refused", (*world).foreignTokens},
		{"in Observe a tampered machine is reported and not touched", (*world).observed},
		{"under Enforce it is tainted", (*world).enforced},
		{"its own credentials do not help it", (*world).kubeletCredentials},
		{"restored and rebooted it is let in again", (*world).restored},
		{"verdicts over the life of nodes and servers", (*world).lifecycle},
		{"upgrade", (*world).upgraded},
		{"uninstall", (*world).uninstalled},
	})
}

// install installs the chart and accepts the maker of the machine's TPM.
func (w *world) install() {
	w.Helper()
	w.volume()
	w.must(w.helm("install", w.values()))
	w.login()
	root, err := w.cluster.Node("vm1").EKRoot()
	w.must(err)
	_, err = w.api.AddRoots(w.ctx, root)
	w.must(err)
}

func (w *world) values() string {
	return fmt.Sprintf(`images: {registry: localhost, tag: %q, pullPolicy: Never}
server:
  service: {type: NodePort, nodePorts: {api: %d, registrar: 30891}}
  storage: {className: lab}
  hosts: [%q]
  interval: 2s
  nodeSelector: {kubernetes.io/hostname: node1}
agent: {tpm: Emulated, emulatedNodeSelector: {kubernetes.io/hostname: node1}, heartbeat: 5s}
operator: {nodeSelector: {kubernetes.io/hostname: node1}}
`, w.tag, apiPort, w.cluster.Node("node1").Address())
}

// volume makes the volume that the server's claim is bound to: this cluster has no provisioner.
func (w *world) volume() {
	w.Helper()
	const path = "/var/lib/assay-data"
	_, err := w.cluster.Node("node1").Output(w.ctx, "mkdir", "-p", path)
	w.must(err)
	w.must(w.cluster.Apply(w.ctx, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: assay-data}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: lab
  local: {path: `+path+`}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node1]}]}]}}
`))
}

// everythingIsUnappraised: without policies nothing is trusted and nothing is tainted.
func (w *world) everythingIsUnappraised() {
	w.Helper()
	for _, name := range []string{"vm1", "node1", "node2"} {
		w.await(name, "Unappraised", "")
	}
	w.condition("node2", v1alpha1.ConditionTpmPresent, metav1.ConditionFalse, "NoTpm")
	w.condition("vm1", v1alpha1.ConditionTpmPresent, metav1.ConditionTrue, "")
	w.condition("vm1", v1alpha1.ConditionEndorsed, metav1.ConditionTrue, "")
	if r := w.report("node1"); !r.Status.Emulated {
		w.Errorf("node1's TPM is an emulator, and its report does not say so: %s", summary(r))
	}
	w.untouched("vm1", "node1", "node2")
}

// runtimeDocument is made from the machine's tree and the list of its first boot: a golden node.
func (w *world) runtimeDocument(name string) string {
	w.Helper()
	m := w.cluster.Node("vm1").Machine()
	list, err := m.ReadFile(w.ctx, "/sys/kernel/security/ima/ascii_runtime_measurements")
	w.must(err)
	files := map[string][]byte{"list": list, "containers.policy": ima.ContainersPolicy()}
	for file, text := range files {
		w.must(os.WriteFile(filepath.Join(w.home, file), text, 0o600))
	}
	out := filepath.Join(w.home, name+".yaml")
	_, err = w.run("assay", "policy", "create", "runtime", name, "--tree", m.Tree(), "--list", filepath.Join(w.home, "list"),
		"--ima-policy", filepath.Join(w.home, "containers.policy"), "--out", out)
	w.must(err)
	return w.add(out)
}

// pcrDocument asks for the values that PCR 0 to 7 have on a node now.
func (w *world) pcrDocument(node, name string) string {
	w.Helper()
	report := w.report(node)
	out, err := w.run("assay", "policy", "create", "pcr", name, "--node", report.Status.Agent)
	w.must(err)
	file := filepath.Join(w.home, name+".yaml")
	w.must(os.WriteFile(file, []byte(out), 0o600))
	return w.add(file)
}

// add stores a document and returns its digest.
func (w *world) add(file string) string {
	w.Helper()
	text, err := os.ReadFile(file)
	w.must(err)
	stored, err := w.api.AddPolicy(w.ctx, text, "")
	w.must(err)
	return stored.Digest.String()
}

// assign stores documents made from the nodes and lets NodePolicies demand them.
func (w *world) assign() {
	w.Helper()
	runtime, boot, pcr := w.runtimeDocument("workers-runtime"), w.pcrDocument("vm1", "workers-boot"), w.pcrDocument("node1", "node1-pcr")
	var emulators []string
	roots, err := w.api.Roots(w.ctx)
	w.must(err)
	for _, r := range roots {
		if r.Emulated {
			emulators = append(emulators, r.Fingerprint.String())
		}
	}
	w.must(w.cluster.Apply(w.ctx, fmt.Sprintf(`
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
func (w *world) trusted() {
	w.Helper()
	w.assign()
	r := w.await("vm1", "Trusted", "workers")
	var names []string
	for _, d := range r.Status.Documents {
		names = append(names, d.Kind+"/"+d.Name)
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "Runtime/workers-runtime") || !strings.Contains(got, "Pcr/workers-boot") {
		w.Errorf("vm1 is Trusted under %s, not under its two documents", got)
	}
	w.await("node1", "Trusted", "control-plane")
	w.await("node2", "Unappraised", "")
}

// observed: without Enforce a tampered machine is reported and not touched.
func (w *world) observed() {
	w.Helper()
	w.tamper()
	r := w.await("vm1", "Failed", "workers")
	if len(r.Status.Failures) == 0 || r.Status.Failures[0].ID != "FileDigestMismatch" || r.Status.Failures[0].Path != program {
		w.Errorf("the failure does not name the program: %s", summary(r))
	}
	w.event("vm1", "VerdictFailed", program)
	w.never("in Observe nothing is touched", 10*time.Second, func() string {
		if w.tainted("vm1") {
			return "vm1 is tainted"
		}
		return ""
	})
}

// enforced: the same failure under Enforce has consequences.
func (w *world) enforced() {
	w.Helper()
	w.must(w.patch("nodepolicy", "workers", map[string]any{"spec": map[string]any{"mode": "Enforce"}}))
	w.eventually("vm1 is tainted", slow, func() string {
		if !w.tainted("vm1") {
			return summary(w.report("vm1"))
		}
		return ""
	})
	w.eventually("vm1 is labelled Failed", time.Minute, func() string {
		if got := w.node("vm1").Metadata.Labels[v1alpha1.LabelVerdict]; got != "Failed" {
			return fmt.Sprintf("the verdict's label is %q", got)
		}
		return ""
	})
	w.untouched("node1", "node2")
}

// restored: the file is restored, the machine rebooted, and trust returns without a hand laid on the node.
func (w *world) restored() {
	w.Helper()
	w.must(w.cluster.Node("vm1").Machine().WriteFile(w.ctx, program, 0o755, []byte(original)))
	w.must(w.cluster.Node("vm1").Reboot(w.ctx))
	w.tell("vm1 has rebooted")
	w.await("vm1", "Trusted", "workers")
	w.eventually("vm1's taint is gone", slow, func() string {
		if w.tainted("vm1") {
			return "it is tainted"
		}
		return ""
	})
}

// tamper changes the program on vm1 and runs it.
func (w *world) tamper() {
	w.Helper()
	m := w.cluster.Node("vm1").Machine()
	w.must(m.WriteFile(w.ctx, program, 0o755, []byte(evil)))
	_, err := m.Output(w.ctx, program)
	w.must(err)
	w.tell("%s was changed and run on vm1", program)
}

// uninstalled: the removal leaves nothing but what is kept: CRDs, their objects and the volume.
func (w *world) uninstalled() {
	w.Helper()
	_, err := w.run("helm", "uninstall", "assay", "--namespace", namespace)
	w.must(err)
	w.tell("helm uninstall")
	for _, name := range []string{"vm1", "node1", "node2"} {
		n := w.node(name)
		for label := range n.Metadata.Labels {
			if strings.Contains(label, "assay") {
				w.Errorf("%s keeps the label %s", name, label)
			}
		}
	}
	w.untouched("vm1", "node1", "node2")
	left, err := w.cluster.Kubectl(w.ctx, "get", "ds,sts,deploy,svc,sa,cm,secret,role,rolebinding,clusterrole,clusterrolebinding", "-A", "-o", "name", "-l", "app.kubernetes.io/part-of=assay")
	w.must(err)
	if strings.TrimSpace(left) != "" {
		w.Errorf("left behind:\n%s", left)
	}
}
