package nodes

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/assay-project/assay/kube/v1alpha1"
)

// passes asks a predicate about an update.
func passes[T client.Object](p predicate.Predicate, before T, change func(T)) bool {
	after, _ := before.DeepCopyObject().(T)
	change(after)
	return p.Update(event.UpdateEvent{ObjectOld: before, ObjectNew: after})
}

// TestNodeChanged: kubelets write their Nodes every few seconds; only what a decision rests on is looked at.
func TestNodeChanged(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"a heartbeat": {func(n *corev1.Node) {
			n.ResourceVersion, n.Status.Conditions[0].LastHeartbeatTime = "2", metav1.NewTime(now.Add(time.Minute))
		}, false},
		"images":              {func(n *corev1.Node) { n.Status.Images = []corev1.ContainerImage{{SizeBytes: 1}} }, false},
		"an annotation":       {func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} }, false},
		"memory":              {func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse("1Gi") }, false},
		"a label":             {func(n *corev1.Node) { n.Labels["a"] = "b" }, true},
		"our taint taken off": {func(n *corev1.Node) { n.Spec.Taints = nil }, true},
		"another taint": {func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "x", Effect: corev1.TaintEffectNoExecute})
		}, true},
		"another effect":         {func(n *corev1.Node) { n.Spec.Taints[0].Effect = corev1.TaintEffectPreferNoSchedule }, true},
		"uncordoned":             {func(n *corev1.Node) { n.Spec.Unschedulable = false }, true},
		"a TPM":                  {func(n *corev1.Node) { n.Status.Allocatable[v1alpha1.ResourceTPM] = resource.MustParse("8") }, true},
		"not ready":              {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		"a new Node of the name": {func(n *corev1.Node) { n.UID = "other" }, true},
	} {
		n := node("a", map[string]string{"zone": "1"})
		n.Spec = corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: v1alpha1.TaintUntrusted, Effect: corev1.TaintEffectNoSchedule}}}
		n.Status = corev1.NodeStatus{Allocatable: corev1.ResourceList{}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}
		if got := passes(nodeChanged(), n, row.change); got != row.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if passes(labelsChanged(), node("a", nil), func(n *corev1.Node) { n.Spec.Unschedulable = true }) || !passes(labelsChanged(), node("a", nil), func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }) {
		t.Error("policies are counted anew when labels change, and only then")
	}
}

// TestObjectsChanged: what wakes Nodes and policies, so that neither misses a change nor wakes itself.
func TestObjectsChanged(t *testing.T) {
	p := enforcing("workers", "a")
	for name, row := range map[string]struct {
		change func(*v1alpha1.NodePolicy)
		want   bool
	}{
		"specification":  {func(p *v1alpha1.NodePolicy) { p.Generation++ }, true},
		"budget counted": {func(p *v1alpha1.NodePolicy) { p.Status.Budget++ }, true},
		"first counted":  {func(p *v1alpha1.NodePolicy) { p.Status.ObservedGeneration++ }, true},
		"being deleted":  {func(p *v1alpha1.NodePolicy) { p.DeletionTimestamp = &metav1.Time{Time: now} }, true},
		"its own counts": {func(p *v1alpha1.NodePolicy) { p.Status.Failed++ }, false},
	} {
		if got := passes(policyChanged(), &p, row.change); got != row.want {
			t.Errorf("policy, %s: %v", name, got)
		}
	}
	report := &v1alpha1.NodeReport{Status: v1alpha1.NodeReportStatus{Verdict: "Trusted"}}
	for name, row := range map[string]struct {
		change func(*v1alpha1.NodeReport)
		want   bool
	}{
		"verdict":         {func(r *v1alpha1.NodeReport) { r.Status.Verdict = "Failed" }, true},
		"reaction begins": {func(r *v1alpha1.NodeReport) { r.Status.Reaction = &v1alpha1.AppliedReaction{} }, true},
		"a detail":        {func(r *v1alpha1.NodeReport) { r.Status.Boot = "other" }, false},
	} {
		if got := passes(verdictChanged(), report, row.change); got != row.want {
			t.Errorf("report, %s: %v", name, got)
		}
	}
	only := deletedOnly()
	if only.Create(event.CreateEvent{Object: report}) || only.Update(event.UpdateEvent{ObjectOld: report, ObjectNew: report}) || !only.Delete(event.DeleteEvent{Object: report}) {
		t.Error("a report that somebody deletes is made anew, and a report does not wake its own writer")
	}
}
