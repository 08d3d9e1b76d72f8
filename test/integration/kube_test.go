package integration

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// enforce makes a NodePolicy of what a host has measured.
func (k *kubeWorld) enforce(h *host, mode string, nodes ...string) *v1alpha1.NodePolicy {
	k.t.Helper()
	name := k.approve(h)
	stored, err := k.admin.Policies(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	i := slices.IndexFunc(stored, func(p api.Policy) bool { return p.Name == name })
	p := &v1alpha1.NodePolicy{ObjectMeta: metav1.ObjectMeta{Name: "workers"}, Spec: v1alpha1.NodePolicySpec{
		Selector: v1alpha1.NodeSelector{Names: nodes}, Mode: mode, Runtime: &v1alpha1.PolicyReference{Name: name, Digest: stored[i].Digest.String()},
		Reactions: &v1alpha1.NodeReactions{Kinds: []string{"Taint", "Label", "Cordon", "Notify"}, Budget: intstr.FromString("50%")},
	}}
	k.create(p)
	return p
}

// tainted looks for our taint; the API server puts its own on a Node that no kubelet reports for.
func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == "integrity.assay.dev/untrusted" && t.Effect == corev1.TaintEffectNoSchedule
	})
}

func quarantined(n *corev1.Node) bool {
	return tainted(n) && n.Spec.Unschedulable && n.Labels[v1alpha1.LabelVerdict] == "Failed"
}

func untouched(n *corev1.Node) bool {
	return !tainted(n) && !n.Spec.Unschedulable && n.Labels[v1alpha1.LabelVerdict] != "Failed"
}

// reboot restarts a host's TPM, list and agent.
func (h *host) reboot() {
	h.t.Helper()
	h.stop()
	if err := h.emulator.Cycle(h.t.Context(), swtpm.Reboot); err != nil {
		h.t.Fatal(err)
	}
	h.boot()
	h.start()
}

// TestOperator is the way of a node: claimed, enrolled, trusted under a policy, tampered with, quarantined, rebooted, back. No hand is laid on it.
func TestOperator(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.reason("a", v1alpha1.ConditionTrusted, "NoPolicy")
	k.nodeIs("a", "untouched", untouched)

	policy := k.enforce(h, "Enforce", "a")
	status := k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	if status.Policy != "workers" || len(status.Documents) != 1 || status.Documents[0].Name != "golden" {
		t.Errorf("report %+v", status)
	}
	k.eventually("the policy counts", func() bool {
		err := k.kube.Get(t.Context(), kube.ObjectKeyFromObject(policy), policy)
		return err == nil && policy.Status.Nodes == 1 && policy.Status.Trusted == 1 && policy.Status.Budget == 1
	})
	before := k.writes()
	time.Sleep(5 * time.Second) // five rounds, ten readings
	if after := k.writes(); after != before {
		t.Errorf("%v status writes without a transition", after-before)
	}

	h.run("/tmp/intruder\x1b[2J", "not approved")
	k.reason("a", v1alpha1.ConditionTrusted, "FileNotInPolicy")
	k.nodeIs("a", "quarantined", quarantined)
	k.eventually("the reaction is told as applied", func() bool {
		open, err := k.admin.Reactions(t.Context(), string(api.ReactionApplied))
		return err == nil && len(open) == 1 && open[0].Identity.Name == "a"
	})
	k.event("a", "ReactionApplied")

	// What the node's own credentials can do, and what they cannot but an accident can.
	var node corev1.Node
	for _, undo := range []func(){func() { node.Spec.Unschedulable = false }, func() { node.Spec.Taints = nil }} {
		if err := k.kube.Get(t.Context(), kube.ObjectKey{Name: "a"}, &node); err != nil {
			t.Fatal(err)
		}
		undo()
		if err := k.kube.Update(t.Context(), &node); err != nil {
			t.Fatal(err)
		}
		k.nodeIs("a", "quarantined again", quarantined)
	}
	k.event("a", "ReactionRedone")

	h.reboot()
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	k.nodeIs("a", "free", func(n *corev1.Node) bool { return untouched(n) && n.Labels[v1alpha1.LabelVerdict] == "Trusted" })
	k.report("a", "nothing left to undo", func(s v1alpha1.NodeReportStatus) bool { return s.Reaction == nil })
}

// event waits for an Event on a Node, and looks at its text.
func (k *kubeWorld) event(node, reason string) {
	k.t.Helper()
	k.eventually("event "+reason+" on "+node, func() bool {
		var list eventsv1.EventList
		if err := k.kube.List(k.t.Context(), &list); err != nil {
			return false
		}
		return slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
			if strings.ContainsFunc(e.Note, func(c rune) bool { return c < ' ' }) {
				k.t.Errorf("event %q has control characters", e.Note)
			}
			return e.Reason == reason && e.Regarding.Name == node
		})
	})
}

// TestObserveTouchesNothing: the same failure, reported only.
func TestObserveTouchesNothing(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.enforce(h, "Observe", "a")
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	h.run("/tmp/intruder", "not approved")
	k.reason("a", v1alpha1.ConditionTrusted, "FileNotInPolicy")
	time.Sleep(2 * time.Second)
	k.nodeIs("a", "untouched", untouched)
	if all, err := k.admin.Reactions(t.Context(), ""); err != nil || len(all) != 0 {
		t.Errorf("reactions %+v, %v", all, err)
	}
}

// TestOperatorRestarts: verdicts and reactions that came while it was away are caught up with.
func TestOperatorRestarts(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.enforce(h, "Enforce", "a")
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")
	k.operator()
	h.run("/tmp/intruder", "not approved")
	k.eventually("the server decides to react", func() bool {
		due, err := k.admin.Reactions(t.Context(), string(api.ReactionDue))
		return err == nil && len(due) == 1
	})
	k.nodeIs("a", "untouched", untouched)
	k.startOperator()
	k.nodeIs("a", "quarantined", quarantined)
	k.operator()
	h.reboot()
	k.eventually("trust returns", func() bool {
		lifting, err := k.admin.Reactions(t.Context(), string(api.ReactionLifting))
		return err == nil && len(lifting) == 1
	})
	k.startOperator()
	k.nodeIs("a", "free", untouched)
}

// TestClaimsRefused: each has a good twin in TestOperator.
func TestClaimsRefused(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	k.node("b")
	good := k.agentOn("a")
	good.start()
	k.reason("a", v1alpha1.ConditionRegistered, "Enrolled")
	for name, row := range map[string]struct {
		token  tokenRequest
		reason string
	}{
		"another node's token":     {tokenRequest{account: "assay-agent", audience: "assay", node: "a"}, "AlreadyBound"},
		"another audience":         {tokenRequest{account: "assay-agent", audience: "vault", node: "b"}, "TokenAudience"},
		"a workload's token":       {tokenRequest{account: "stranger", audience: "assay", node: "b"}, "NotAnAgent"},
		"a node that is not there": {tokenRequest{account: "assay-agent", audience: "assay", node: "gone"}, "TokenWithoutNode"},
	} {
		t.Run(name, func(t *testing.T) {
			h := k.newHost()
			h.claim(k.token(row.token))
			h.start()
			defer h.stop()
			if row.token.node == "a" {
				status := k.report("a", "a refused claim", func(s v1alpha1.NodeReportStatus) bool { return s.Refusal != nil })
				if status.Refusal.Reason != row.reason || status.Refusal.Agent == status.Agent {
					t.Errorf("refusal %+v", status.Refusal)
				}
				return
			}
			time.Sleep(2 * time.Second)
			nodes, err := k.admin.Nodes(t.Context())
			if err != nil || len(nodes) != 1 {
				t.Errorf("%d nodes are enrolled, %v; want the good one", len(nodes), err)
			}
		})
	}
}
