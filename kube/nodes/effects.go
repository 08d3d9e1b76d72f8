package nodes

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// effects are what a reaction does to a Node object.
type effects struct {
	taint  corev1.TaintEffect // "" for none
	label  string             // value of the verdict label; "" for none
	cordon bool
}

// effectsOf translates a reaction under its policy, which names the taint's effect. A reaction to silence never evicts.
func effectsOf(r *api.Reaction, policy *v1alpha1.NodePolicy) effects {
	var e effects
	if has(r.Kinds, api.ReactTaint) {
		e.taint = corev1.TaintEffectNoSchedule
		if policy != nil && policy.Spec.Reactions != nil && policy.Spec.Reactions.TaintEffect == string(corev1.TaintEffectNoExecute) && r.Cause == api.CauseFailure {
			e.taint = corev1.TaintEffectNoExecute
		}
	}
	if has(r.Kinds, api.ReactLabel) {
		e.label = string(attest.Failed)
	}
	e.cordon = has(r.Kinds, api.ReactCordon)
	return e
}

// intent is the record of a reaction before anything is done. What an earlier try recorded of the same reaction stays: it knew the Node as it
// was before us.
func intent(r *api.Reaction, e effects, node *corev1.Node, earlier *v1alpha1.AppliedReaction) *v1alpha1.AppliedReaction {
	record := &v1alpha1.AppliedReaction{ID: int64(r.ID), DryRun: r.DryRun, TaintEffect: string(e.taint)}
	for _, kind := range r.Kinds {
		record.Kinds = append(record.Kinds, string(kind))
	}
	record.Cordoned = e.cordon && !node.Spec.Unschedulable
	if earlier != nil && earlier.ID == record.ID {
		record.Cordoned = earlier.Cordoned
	}
	if r.DryRun {
		record.Cordoned, record.TaintEffect = false, ""
	}
	return record
}

// apply changes a Node as the effects say, and reports whether anything changed. Doing it again changes nothing.
func (e effects) apply(node *corev1.Node) bool {
	changed := false
	if e.taint != "" {
		ours := func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintUntrusted }
		want := corev1.Taint{Key: v1alpha1.TaintUntrusted, Value: string(attest.Failed), Effect: e.taint}
		if i := slices.IndexFunc(node.Spec.Taints, ours); i < 0 || node.Spec.Taints[i].Effect != e.taint || node.Spec.Taints[i].Value != want.Value {
			node.Spec.Taints = append(slices.DeleteFunc(slices.Clone(node.Spec.Taints), ours), want)
			changed = true
		}
	}
	if e.label != "" && node.Labels[v1alpha1.LabelVerdict] != e.label {
		node.Labels = maps.Clone(node.Labels)
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		node.Labels[v1alpha1.LabelVerdict] = e.label
		changed = true
	}
	if e.cordon && !node.Spec.Unschedulable {
		node.Spec.Unschedulable = true
		changed = true
	}
	return changed
}

// undo takes back what a record says that we did, and reports whether anything changed. A cordon that was there before us stays.
func undo(node *corev1.Node, record *v1alpha1.AppliedReaction) bool {
	changed := false
	if record == nil || record.DryRun {
		return false
	}
	if record.TaintEffect != "" {
		left := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintUntrusted })
		changed = len(left) != len(node.Spec.Taints)
		node.Spec.Taints = left
	}
	if has(record.Kinds, string(api.ReactLabel)) && node.Labels[v1alpha1.LabelVerdict] == string(attest.Failed) {
		node.Labels = maps.Clone(node.Labels)
		delete(node.Labels, v1alpha1.LabelVerdict)
		changed = true
	}
	if record.Cordoned && node.Spec.Unschedulable {
		node.Spec.Unschedulable = false
		changed = true
	}
	return changed
}

// mend finds what undid an applied reaction: a new Node object of the same machine, or somebody's hand; a node can uncordon itself.
func (s situation) mend(d *decision) {
	r := s.reaction
	if !s.connected || s.suspended || r == nil || r.DryRun || r.State != api.ReactionApplied || s.machine == nil {
		return
	}
	e := effectsOf(r, s.policyOf(r.Owner))
	if record := d.status.Reaction; record != nil && record.ID == int64(r.ID) && record.TaintEffect != "" {
		e.taint = corev1.TaintEffect(record.TaintEffect) // as it was applied; a changed policy counts from the next reaction on
	}
	if !e.apply(s.node.DeepCopy()) && d.status.Reaction != nil {
		return
	}
	d.repair = &e
	d.status.Reaction = intent(r, e, s.node, d.status.Reaction)
}
