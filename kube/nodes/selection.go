package nodes

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// ownerPrefix marks assignments of ours.
const ownerPrefix = "NodePolicy/"

// selects reports whether a policy selects a node. An error is a selector that the CRD's rules let through and labels do not know.
func selects(p *v1alpha1.NodePolicy, node *corev1.Node) (bool, error) {
	s := p.Spec.Selector
	if len(s.Names) > 0 {
		return slices.Contains(s.Names, node.Name), nil
	}
	selector := metav1.LabelSelector{MatchLabels: s.MatchLabels}
	for _, e := range s.MatchExpressions {
		selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator, Values: e.Values})
	}
	if len(selector.MatchLabels) == 0 && len(selector.MatchExpressions) == 0 {
		return false, nil // everything is what nobody asked for
	}
	compiled, err := metav1.LabelSelectorAsSelector(&selector)
	if err != nil {
		return false, fmt.Errorf("NodePolicy %s: selector: %w", p.Name, err)
	}
	return compiled.Matches(labels.Set(node.Labels)), nil
}

// govern finds the policies that select a node, the one that governs it first: the highest priority, then the first name. Policies that are
// being deleted, and those with a selector that cannot be read, select nothing.
func govern(policies []v1alpha1.NodePolicy, node *corev1.Node) []*v1alpha1.NodePolicy {
	var selecting []*v1alpha1.NodePolicy
	for i := range policies {
		if policies[i].DeletionTimestamp != nil {
			continue
		}
		if ok, err := selects(&policies[i], node); ok && err == nil {
			selecting = append(selecting, &policies[i])
		}
	}
	slices.SortFunc(selecting, func(a, b *v1alpha1.NodePolicy) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), strings.Compare(a.Name, b.Name))
	})
	return selecting
}

// wish is what a node shall have at the server.
type wish struct {
	policies   []string // digests, sorted
	interval   float64  // seconds, 0 for the server's
	assignment api.Assignment
}

// wishOf translates a policy. The budget is the one in its status, where percentages have been counted out; a policy whose status is of an
// older generation has none yet.
func wishOf(p *v1alpha1.NodePolicy) (wish, error) {
	w := wish{assignment: api.Assignment{
		Owner: ownerPrefix + p.Name, Mode: api.Mode(p.Spec.Mode), Readmit: api.Readmit(p.Spec.Readmit), Reimage: api.Reimage(p.Spec.Reimage),
		ContainerFiles: api.ContainerFiles(p.Spec.ContainerFiles),
	}}
	for _, ref := range []*v1alpha1.PolicyReference{p.Spec.Runtime, p.Spec.Boot, p.Spec.PCR} {
		if ref != nil {
			w.policies = append(w.policies, ref.Digest)
		}
	}
	slices.Sort(w.policies)
	w.policies = slices.Compact(w.policies)
	if p.Spec.Interval != nil {
		w.interval = p.Spec.Interval.Seconds()
	}
	if r := p.Spec.Reactions; r != nil {
		w.assignment.Reactions, w.assignment.DryRun = kindsOf(r.Kinds), r.DryRun
	}
	if p.Status.ObservedGeneration == p.Generation {
		w.assignment.Budget = int(p.Status.Budget)
	}
	if s := p.Spec.WhenSilent; s != nil {
		w.assignment.WhenSilent = &api.WhenSilent{Reactions: kindsOf(s.Kinds), After: s.After.Seconds()}
	}
	for _, text := range p.Spec.EndorsedBy {
		fingerprint, err := attest.ParseDigest(text)
		if err != nil {
			return wish{}, fmt.Errorf("NodePolicy %s: endorsedBy: %w", p.Name, err)
		}
		w.assignment.EndorsedBy = append(w.assignment.EndorsedBy, fingerprint)
	}
	return w, nil
}

func kindsOf(texts []string) []api.ReactionKind {
	kinds := make([]api.ReactionKind, len(texts))
	for i, text := range texts {
		kinds[i] = api.ReactionKind(text)
	}
	return kinds
}

// budgetOf counts a budget out over the governed nodes. A percentage is rounded down, but is one at the least when it is above 0 %; what
// cannot be read is 0.
func budgetOf(r *v1alpha1.NodeReactions, governed int) int32 {
	if r == nil {
		return 0
	}
	if r.Budget.Type == intstr.Int {
		return max(r.Budget.IntVal, 0)
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(r.Budget.StrVal, "%"))
	if err != nil || percent <= 0 || percent > 100 || governed == 0 {
		return 0
	}
	return int32(max(governed*percent/100, 1))
}
