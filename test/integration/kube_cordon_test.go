package integration

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// unschedulable cordons or uncordons a Node, as kubectl does.
func (k *kubeWorld) unschedulable(name string, is bool) {
	k.t.Helper()
	node := &corev1.Node{}
	if err := k.kube.Get(k.t.Context(), kube.ObjectKey{Name: name}, node); err != nil {
		k.t.Fatal(err)
	}
	changed := node.DeepCopy()
	changed.Spec.Unschedulable = is
	if err := k.kube.Patch(k.t.Context(), changed, kube.MergeFrom(node)); err != nil {
		k.t.Fatal(err)
	}
}

// TestCordonMutes: a cordon reaches the server by the operator, shows in the report with its end, ends with the cordon, and is not renewed by
// another one. It hides no failure.
func TestCordonMutes(t *testing.T) {
	k := newKubeWorld(t)
	k.node("a")
	h := k.agentOn("a")
	h.start()
	k.enforce(h, "Observe", "a")
	k.reason("a", v1alpha1.ConditionTrusted, "Trusted")

	k.unschedulable("a", true)
	first := k.report("a", "muted", func(s v1alpha1.NodeReportStatus) bool { return s.MutedUntil != nil }).MutedUntil
	if left := time.Until(first.Time); left < 29*time.Minute || left > 30*time.Minute {
		t.Errorf("the mute lasts %v from now on", left)
	}
	k.event("a", "StalenessMuted")

	k.unschedulable("a", false)
	k.report("a", "not muted", func(s v1alpha1.NodeReportStatus) bool { return s.MutedUntil == nil })
	time.Sleep(2 * time.Second) // quotes are accepted meanwhile
	k.unschedulable("a", true)
	again := k.report("a", "muted again", func(s v1alpha1.NodeReportStatus) bool { return s.MutedUntil != nil })
	if !again.MutedUntil.Equal(first) {
		t.Errorf("the second cordon is muted until %s, the first one until %s", again.MutedUntil, first)
	}
	h.run("/tmp/intruder", "not approved")
	k.reason("a", v1alpha1.ConditionTrusted, "FileNotInPolicy")
}
