package nodes

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// asked is the situation of a policy whose documents the server has.
func asked(p v1alpha1.NodePolicy, others ...v1alpha1.NodePolicy) policySituation {
	stored := map[string]api.Policy{}
	for kind, ref := range map[string]*v1alpha1.PolicyReference{"Runtime": p.Spec.Runtime, "Boot": p.Spec.Boot, "Pcr": p.Spec.PCR} {
		if ref != nil {
			stored[ref.Digest] = api.Policy{Kind: kind, Name: ref.Name}
		}
	}
	return policySituation{
		now: now, policy: &p, policies: append([]v1alpha1.NodePolicy{p}, others...), verdicts: map[string]string{}, connected: true,
		document: func(digest string) (api.Policy, bool) { d, ok := stored[digest]; return d, ok },
	}
}

// told returns a condition as "Status/Reason: message".
func told(s v1alpha1.NodePolicyStatus, kind string) string {
	c := meta.FindStatusCondition(s.Conditions, kind)
	if c == nil {
		return "absent"
	}
	return fmt.Sprintf("%s/%s: %s", c.Status, c.Reason, c.Message)
}

// TestPolicyReady: what keeps a policy's documents from being applied, with what to do.
func TestPolicyReady(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*policySituation)
		want   string
	}{
		"all stored":                        {func(*policySituation) {}, "True/DocumentsStored"},
		"selector rests on writable labels": {func(s *policySituation) { s.policy.Spec.Selector.AcceptNodeWritableLabels = true }, "True/NodeWritableLabels: every document is stored; the selector rests on labels that nodes can change"},
		"none of the digest":                {func(s *policySituation) { s.policy.Spec.Runtime.Digest = "sha256:other" }, "False/DocumentMissing: the server has no document sha256:other (Runtime host); add it: assay policy add FILE"},
		"another kind":                      {func(s *policySituation) { s.policy.Spec.Boot, s.policy.Spec.Runtime = s.policy.Spec.Runtime, nil }, "False/DocumentKind"},
		"another name":                      {func(s *policySituation) { s.policy.Spec.Runtime.Name = "guest" }, "False/DocumentName"},
		"server not read":                   {func(s *policySituation) { s.connected = false }, "Unknown/ServerUnreachable"},
		"a selector that is none": {func(s *policySituation) {
			s.policy.Spec.Selector = v1alpha1.NodeSelector{MatchExpressions: []v1alpha1.LabelRequirement{{Key: "x", Operator: "Is"}}}
		}, "False/SelectorInvalid"},
	} {
		t.Run(name, func(t *testing.T) {
			s := asked(enforcing("workers", "a"))
			row.change(&s)
			if got := told(s.decide(), v1alpha1.ConditionReady); !strings.HasPrefix(got, row.want) {
				t.Errorf("%q, want %q", got, row.want)
			}
		})
	}
}

// TestPolicyCounts: a policy counts the nodes that it governs, not those that it merely selects, and its budget follows from them.
func TestPolicyCounts(t *testing.T) {
	rival := policy("above", 7, v1alpha1.NodeSelector{Names: []string{"c", "d"}})
	s := asked(enforcing("workers", "a", "b", "c", "gone"), rival)
	for _, name := range []string{"a", "b", "c", "d"} {
		s.nodes = append(s.nodes, *node(name, nil))
	}
	s.verdicts = map[string]string{"a": "Trusted", "b": "Failed", "c": "Failed", "gone": "Failed"}
	s.reacting = 1
	got := s.decide()
	if got.Nodes != 2 || got.Trusted != 1 || got.Failed != 1 || got.Reacting != 1 || got.Budget != budgetOf(s.policy.Spec.Reactions, 2) {
		t.Errorf("%+v", got)
	}
	if text := told(got, v1alpha1.ConditionConflicting); text != "True/SameNodes: NodePolicy above too: c. The highest priority governs a node, of several the first by name" {
		t.Errorf("%q", text)
	}
	s.policies = s.policies[:1]
	if text := told(s.decide(), v1alpha1.ConditionConflicting); !strings.HasPrefix(text, "False/NoConflict") {
		t.Errorf("alone: %q", text)
	}
}

// TestConflictIsShort: a fleet that two policies select is named by its first nodes, in order.
func TestConflictIsShort(t *testing.T) {
	var shared []string
	for i := range 9 {
		shared = append(shared, fmt.Sprintf("n%d", 8-i))
	}
	if got := conflict(shared, map[string]bool{"b": true, "a": true}).message; !strings.HasPrefix(got, "NodePolicy a, b too: n0, n1, n2, n3, n4 and 4 more.") {
		t.Errorf("%q", got)
	}
}

// TestPolicyStatusRests: the same situation gives the same status, time and all: it is written on transitions only.
func TestPolicyStatusRests(t *testing.T) {
	s := asked(enforcing("workers", "a"))
	s.nodes = []corev1.Node{*node("a", nil)}
	first := s.decide()
	s.policy.Status, s.now = first, now.Add(1e12)
	if diff := cmp.Diff(first, s.decide()); diff != "" {
		t.Errorf("(-first +later):\n%s", diff)
	}
	if !slices.ContainsFunc(first.Conditions, func(c metav1.Condition) bool { return c.LastTransitionTime.Time.Equal(now) }) {
		t.Error("no transition has its time")
	}
}
