package forms

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/test/world"
)

// policyName is the NodePolicy of vm1.
const policyName = "forms"

// daemonSets waits until exactly these DaemonSets of ours have a pod on vm1, running, and no other of their pods is there.
func (w *story) daemonSets(want ...string) {
	w.Helper()
	w.Eventually(fmt.Sprintf("vm1 runs %v and nothing else of ours", want), world.Slow, func() string {
		var pods struct {
			Items []struct {
				Metadata struct {
					Labels            map[string]string
					DeletionTimestamp *metav1.Time
				}
				Spec   struct{ NodeName string }
				Status struct {
					Phase             string
					ContainerStatuses []struct{ Ready bool }
				}
			}
		}
		if err := w.Object("/api/v1/namespaces/"+world.Namespace+"/pods?labelSelector=app.kubernetes.io/managed-by%3Dassay-operator", &pods); err != nil {
			return err.Error()
		}
		var got []string
		for _, p := range pods.Items {
			if p.Spec.NodeName != "vm1" {
				continue
			}
			name := p.Metadata.Labels["app.kubernetes.io/name"]
			if p.Metadata.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready {
				name += " (" + p.Status.Phase + ")"
			}
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Sprintf("%v", got)
		}
		return ""
	})
}

// privileged: the form for clusters without device plugins. A label says that vm1 has a TPM, as node feature discovery would.
func (w *story) privileged() {
	w.Helper()
	w.Endorse("vm1")
	w.Await("vm1", "Unappraised", "")
	w.daemonSets("assay-agent-privileged")
	if out, err := w.Cluster.Kubectl(w.Ctx, "get", "daemonset", "-n", world.Namespace, "-o", "name"); err != nil || strings.Contains(out, "device-plugin") {
		w.Errorf("DaemonSets %s, %v: no device plugin is wanted", out, err)
	}
	w.unprivilegedProcess()
	w.Must(w.Cluster.Apply(w.Ctx, fmt.Sprintf(`
apiVersion: integrity.assay.dev/v1alpha1
kind: NodePolicy
metadata: {name: %s}
spec:
  selector: {names: [vm1]}
  pcr: {name: vm1-pcr, digest: %q}
`, policyName, w.PcrDocument("vm1", "vm1-pcr"))))
	r := w.Await("vm1", "Trusted", policyName)
	w.vm1 = attest.AgentID(r.Status.Agent)
	w.rounds()
	e, err := w.API.Evidence(w.Ctx, w.vm1)
	w.Must(err)
	w.ak = e.AK
	results, err := w.API.Results(w.Ctx, w.vm1)
	w.Must(err)
	w.transitions = results[len(results)-1].Seq
}

// unprivilegedProcess: whatever its container may, the agent has become an ordinary user without capabilities.
func (w *story) unprivilegedProcess() {
	w.Helper()
	const want = "65532 CapPrm 0000000000000000 CapEff 0000000000000000 NoNewPrivs 1"
	if got := w.in(`pid=$(pidof assay-agent); echo $(stat -c %u /proc/$pid) $(grep -E '^(CapPrm|CapEff|NoNewPrivs):' /proc/$pid/status | tr -d :)`); got != want {
		w.Errorf("the agent's process is %q, want %q", got, want)
	}
}

// hardened: by an upgrade the other DaemonSet takes over, with the same keys and no alarm.
func (w *story) hardened() {
	w.Helper()
	w.absent(policyPath)
	w.change(form{name: v1alpha1.FormHardened, imaPolicy: ima.Host, plugin: true}, "assay-agent", "assay-device-plugin")
}

func (w *story) privilegedAgain() {
	w.Helper()
	w.change(form{name: v1alpha1.FormPrivileged, imaPolicy: ima.Host}, "assay-agent-privileged")
}

// change upgrades the chart to another form, which takes over from the one before.
func (w *story) change(to form, pods ...string) {
	w.Helper()
	w.Must(w.Helm("upgrade", w.values(to)))
	w.daemonSets(pods...)
	w.rounds()
	w.unprivilegedProcess()
	w.sameIdentity()
	w.happened()
}
