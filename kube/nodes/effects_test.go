package nodes

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

func reaction(kinds ...api.ReactionKind) *api.Reaction {
	return &api.Reaction{ID: 7, Node: agentA, Kinds: kinds, Cause: api.CauseFailure, State: api.ReactionApplied, Owner: "NodePolicy/workers"}
}

func everything() *api.Reaction {
	return reaction(api.ReactTaint, api.ReactLabel, api.ReactCordon, api.ReactNotify)
}

// bystander is what others put on a Node.
func bystander() *corev1.Node {
	n := node("a", map[string]string{"team": "x"})
	n.Spec.Taints = []corev1.Taint{{Key: "other", Effect: corev1.TaintEffectNoSchedule}}
	return n
}

func TestApplyAndUndo(t *testing.T) {
	p := enforcing("workers", "a")
	for name, row := range map[string]struct {
		reaction *api.Reaction
		before   func(*corev1.Node)
		taint    corev1.TaintEffect
	}{
		"everything":             {everything(), func(*corev1.Node) {}, corev1.TaintEffectNoExecute},
		"taint":                  {reaction(api.ReactTaint), func(*corev1.Node) {}, corev1.TaintEffectNoExecute},
		"cordon":                 {reaction(api.ReactCordon), func(*corev1.Node) {}, ""},
		"a cordon before us":     {everything(), func(n *corev1.Node) { n.Spec.Unschedulable = true }, corev1.TaintEffectNoExecute},
		"notify":                 {reaction(api.ReactNotify), func(*corev1.Node) {}, ""},
		"silence does not evict": {&api.Reaction{ID: 7, Kinds: []api.ReactionKind{api.ReactTaint}, Cause: api.CauseSilence}, func(*corev1.Node) {}, corev1.TaintEffectNoSchedule},
	} {
		t.Run(name, func(t *testing.T) {
			n := bystander()
			row.before(n)
			original := n.DeepCopy()
			e := effectsOf(row.reaction, &p)
			if e.taint != row.taint {
				t.Errorf("taint %q, want %q", e.taint, row.taint)
			}
			record := intent(row.reaction, e, n, nil)
			e.apply(n)
			applied := n.DeepCopy()
			if e.apply(n) || !cmp.Equal(applied, n) {
				t.Errorf("applying again changes something:\n%s", cmp.Diff(applied, n))
			}
			// Killed after the patch: the next try sees the Node as it is now, and the record as it was.
			if diff := cmp.Diff(record, intent(row.reaction, e, n, record)); diff != "" {
				t.Errorf("the second try records something else (-first +second):\n%s", diff)
			}
			undo(n, record)
			if diff := cmp.Diff(original, n); diff != "" {
				t.Errorf("undone is not as before (-before +after):\n%s", diff)
			}
			if undo(n, record) {
				t.Error("undoing again changes something")
			}
		})
	}
}

func TestUndoLeavesWhatOthersDid(t *testing.T) {
	n := bystander()
	n.Spec.Unschedulable = true
	n.Labels[v1alpha1.LabelVerdict] = "Trusted"
	before := n.DeepCopy()
	for name, record := range map[string]*v1alpha1.AppliedReaction{
		"no record": nil, "dry run": {DryRun: true, TaintEffect: "NoSchedule", Cordoned: true}, "notify only": {Kinds: []string{"Notify"}},
		"label that changed since": {Kinds: []string{"Label"}},
	} {
		if undo(n, record) || !cmp.Equal(before, n) {
			t.Errorf("%s: %s", name, cmp.Diff(before, n))
		}
	}
}

func TestDryRunRecordsNothingToUndo(t *testing.T) {
	r := everything()
	r.DryRun = true
	p := enforcing("workers", "a")
	record := intent(r, effectsOf(r, &p), bystander(), nil)
	if record.Cordoned || record.TaintEffect != "" || !record.DryRun {
		t.Errorf("got %+v", record)
	}
}

func TestMend(t *testing.T) {
	quarantined := func(t *testing.T) situation {
		s := calm(t)
		failed(s.machine)
		s.reaction = everything()
		e := effectsOf(s.reaction, &s.policies[0])
		s.report = decide(s).status
		s.report.Reaction = intent(s.reaction, e, s.node, nil)
		e.apply(s.node)
		return s
	}
	for name, row := range map[string]struct {
		change func(*situation)
		want   bool
	}{
		"as applied":              {func(*situation) {}, false},
		"the node uncordoned":     {func(s *situation) { s.node.Spec.Unschedulable = false }, true},
		"the taint was taken":     {func(s *situation) { s.node.Spec.Taints = nil }, true},
		"the effect was weakened": {func(s *situation) { s.node.Spec.Taints[0].Effect = corev1.TaintEffectPreferNoSchedule }, true},
		"a new Node object":       {func(s *situation) { s.node = node("a", nil); s.node.UID = "uid-of-x"; s.report.Reaction = nil }, true},
		"while suspended":         {func(s *situation) { s.suspended = true; s.node.Spec.Taints = nil }, false},
		"in a dry run":            {func(s *situation) { s.reaction.DryRun = true; s.node.Spec.Taints = nil }, false},
		"while it is lifted":      {func(s *situation) { s.reaction.State = api.ReactionLifting; s.node.Spec.Taints = nil }, false},
		"server away":             {func(s *situation) { s.connected = false; s.node.Spec.Taints = nil }, false},
		"a policy that changed":   {func(s *situation) { s.policies[0].Spec.Reactions.TaintEffect = "NoSchedule" }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := quarantined(t)
			row.change(&s)
			if got := decide(s).repair != nil; got != row.want {
				t.Errorf("mends: %v, want %v", got, row.want)
			}
		})
	}
}

func TestStands(t *testing.T) {
	quoted := api.Node{Verdict: attest.Failed, QuoteBacked: true}
	unquoted := api.Node{Verdict: attest.Failed}
	stale := api.Node{Verdict: attest.Stale}
	trusted := api.Node{Verdict: attest.Trusted}
	for _, row := range []struct {
		cause   api.ReactionCause
		machine api.Node
		want    bool
	}{
		{api.CauseFailure, quoted, true}, {api.CauseFailure, unquoted, false}, {api.CauseFailure, stale, false}, {api.CauseFailure, trusted, false},
		{api.CauseSilence, quoted, false}, {api.CauseSilence, unquoted, true}, {api.CauseSilence, stale, true}, {api.CauseSilence, trusted, false},
		{"Whim", quoted, false},
	} {
		if got := stands(api.Reaction{Cause: row.cause}, row.machine); got != row.want {
			t.Errorf("%s and %s (quote %v): got %v", row.cause, row.machine.Verdict, row.machine.QuoteBacked, got)
		}
	}
}
