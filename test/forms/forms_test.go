package forms

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/test/world"
)

func TestMain(m *testing.M) {
	cluster.RunSupervisor()
	os.Exit(m.Run())
}

// story is the cluster that it is about.
type story struct {
	*world.World
	// vm1 is the id of vm1's agent, and ak the attestation key with which it began.
	vm1 attest.AgentID
	ak  []byte
	// transitions is how many vm1's verdict had when last looked at.
	transitions uint64
	// certManager ends cert-manager.
	certManager func()
	// settled is since when the platform's certificates were there before they were renewed.
	settled metav1.Time
}

// TestForms is the way of a cluster through the forms. Nothing has given vm1 an IMA policy: its init loads the disk's, once there is one.
func TestForms(t *testing.T) {
	w := &story{World: world.New(t, cluster.Worker{Name: "vm1", Kind: cluster.Machine, Machine: lab.Config{IMAPolicy: []byte{}}})}
	defer func() {
		if w.certManager != nil {
			w.certManager()
		}
	}()
	w.Story(t, world.Steps{
		{"without cert-manager the platform says so", w.certManagerMissing},
		{"cert-manager issues and the platform is Ready", w.certManagerIssues},
		{"a certificate of the servers' issuer is no administrator's", w.impostor},
		{"a privileged agent is attested", w.privileged},
		{"a hardened agent takes over", w.hardened},
		{"it has installed the IMA policy for the next boot", w.policyInstalled},
		{"a policy of somebody else stays", w.foreignPolicy},
		{"a privileged agent takes over", w.privilegedAgain},
		{"cert-manager renews certificates", w.renew},
		{"after a reboot the policy is proven", w.policyLoaded},
		{"the renewed certificates are in use without an alarm", w.renewed},
	})
}

// form is what a step chooses of the agents' forms.
type form struct {
	name, imaPolicy string
	plugin          bool
}

func (w *story) values(f form) string {
	return fmt.Sprintf(`images: {registry: localhost, tag: %q, pullPolicy: Never}
server:
  service: {type: NodePort, nodePorts: {api: %d, registrar: %d}}
  storage: {className: lab}
  hosts: [%q]
  interval: 2s
  nodeSelector: {kubernetes.io/hostname: node1}
certificates: {source: CertManager, certManager: {servers: {name: %s}, clients: {name: %s}}}
agent: {form: %s, devicePlugin: %v, imaPolicy: %s, heartbeat: 5s}
operator: {nodeSelector: {kubernetes.io/hostname: node1}}
`, w.Tag, world.APIPort, world.RegistrarPort, w.Cluster.Node("node1").Address(), serversIssuer, clientsIssuer, f.name, f.plugin, f.imaPolicy)
}

// in runs a shell line on vm1 as root.
func (w *story) in(line string) string {
	w.Helper()
	out, err := w.Cluster.Node("vm1").Output(w.Ctx, "/bin/sh", "-c", line)
	w.Must(err)
	return strings.TrimSpace(out)
}

// machine is vm1 as the server knows it.
func (w *story) machine() api.Node {
	w.Helper()
	n, err := w.API.Node(w.Ctx, w.vm1)
	w.Must(err)
	return n
}

// rounds waits until vm1 has been accepted a few times more.
func (w *story) rounds() {
	w.Helper()
	before := w.machine().Accepted
	w.Eventually("rounds of vm1 go on", world.Slow, func() string {
		now, err := w.API.Node(w.Ctx, w.vm1)
		if err != nil {
			return err.Error()
		}
		if now.Accepted < before+3 {
			return fmt.Sprintf("%d accepted, %d before; trouble %+v", now.Accepted, before, now.Trouble)
		}
		return ""
	})
}

// told are the changes of vm1's verdict since the last look, as "From -> To". That it failed for one more reason is none.
func (w *story) told() (lines []string) {
	w.Helper()
	results, err := w.API.Results(w.Ctx, w.vm1)
	w.Must(err)
	for _, t := range results {
		if t.Seq > w.transitions && t.From != t.To {
			lines = append(lines, fmt.Sprintf("%s -> %s", t.From, t.To))
		}
		w.transitions = max(w.transitions, t.Seq)
	}
	return lines
}

// happened compares the transitions since the last look with what should have been.
func (w *story) happened(want ...string) {
	w.Helper()
	if diff := cmp.Diff(want, w.told()); diff != "" {
		w.Errorf("transitions of vm1 (-want +got):\n%s", diff)
	}
}

// sameIdentity says that vm1 is the agent that it was at first, with the same attestation key, and that nobody waits for a person's approval.
func (w *story) sameIdentity() {
	w.Helper()
	if got := attest.AgentID(w.Report("vm1").Status.Agent); got != w.vm1 {
		w.Errorf("vm1's agent is %s and was %s", got, w.vm1)
	}
	e, err := w.API.Evidence(w.Ctx, w.vm1)
	w.Must(err)
	if diff := cmp.Diff(w.ak, e.AK); diff != "" {
		w.Errorf("vm1 has another attestation key (-first +now):\n%s", diff)
	}
	pending, err := w.API.Pending(w.Ctx)
	w.Must(err)
	if len(pending) > 0 {
		w.Errorf("a person has to approve: %+v", pending)
	}
}
