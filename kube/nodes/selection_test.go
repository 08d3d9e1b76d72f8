package nodes

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

func node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-of-" + "x", Labels: labels}}
}

func policy(name string, priority int32, s v1alpha1.NodeSelector) v1alpha1.NodePolicy {
	return v1alpha1.NodePolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodePolicySpec{Selector: s, Priority: priority}}
}

func TestGovern(t *testing.T) {
	const own = "tier.node-restriction.kubernetes.io/level"
	byName := v1alpha1.NodeSelector{Names: []string{"a", "b"}}
	byLabel := v1alpha1.NodeSelector{MatchLabels: map[string]string{own: "high"}}
	byExpression := v1alpha1.NodeSelector{MatchExpressions: []v1alpha1.LabelRequirement{{Key: own, Operator: metav1.LabelSelectorOpIn, Values: []string{"high", "higher"}}}}
	deleted := policy("gone", 1000, byName)
	deleted.DeletionTimestamp = &metav1.Time{}
	unreadable := policy("unreadable", 1000, v1alpha1.NodeSelector{MatchExpressions: []v1alpha1.LabelRequirement{{Key: "bad key", Operator: "Like"}}})
	high := node("a", map[string]string{own: "high"})
	for name, row := range map[string]struct {
		policies []v1alpha1.NodePolicy
		node     *corev1.Node
		want     []string
	}{
		"none":                     {nil, high, nil},
		"by name":                  {[]v1alpha1.NodePolicy{policy("p", 0, byName)}, high, []string{"p"}},
		"other name":               {[]v1alpha1.NodePolicy{policy("p", 0, byName)}, node("c", nil), nil},
		"by label":                 {[]v1alpha1.NodePolicy{policy("p", 0, byLabel)}, high, []string{"p"}},
		"by expression":            {[]v1alpha1.NodePolicy{policy("p", 0, byExpression)}, high, []string{"p"}},
		"without the label":        {[]v1alpha1.NodePolicy{policy("p", 0, byLabel), policy("q", 0, byExpression)}, node("a", nil), nil},
		"an empty selector":        {[]v1alpha1.NodePolicy{policy("p", 0, v1alpha1.NodeSelector{})}, high, nil},
		"the first name governs":   {[]v1alpha1.NodePolicy{policy("q", 0, byName), policy("p", 0, byLabel)}, high, []string{"p", "q"}},
		"the priority governs":     {[]v1alpha1.NodePolicy{policy("p", 0, byName), policy("q", 1, byLabel)}, high, []string{"q", "p"}},
		"one that is deleted":      {[]v1alpha1.NodePolicy{policy("p", 0, byName), deleted}, high, []string{"p"}},
		"one that cannot be read":  {[]v1alpha1.NodePolicy{unreadable, policy("p", 0, byName)}, high, []string{"p"}},
		"order does not matter":    {[]v1alpha1.NodePolicy{policy("p", 0, byLabel), policy("q", 0, byName)}, high, []string{"p", "q"}},
		"negative priorities last": {[]v1alpha1.NodePolicy{policy("a", -1, byLabel), policy("q", 0, byName)}, high, []string{"q", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range govern(row.policies, row.node) {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestBudgetOf(t *testing.T) {
	of := func(v any) *v1alpha1.NodeReactions {
		r := &v1alpha1.NodeReactions{}
		switch v := v.(type) {
		case int:
			r.Budget = intstr.FromInt32(int32(v))
		case string:
			r.Budget = intstr.FromString(v)
		}
		return r
	}
	for _, row := range []struct {
		reactions *v1alpha1.NodeReactions
		governed  int
		want      int32
	}{
		{nil, 10, 0}, {of(0), 10, 0}, {of(3), 10, 3}, {of(3), 0, 3}, {of(-1), 10, 0},
		{of("0%"), 10, 0}, {of("10%"), 10, 1}, {of("19%"), 10, 1}, {of("20%"), 10, 2}, {of("1%"), 10, 1}, {of("100%"), 7, 7},
		{of("50%"), 0, 0}, {of("101%"), 10, 0}, {of("many"), 10, 0},
	} {
		if got := budgetOf(row.reactions, row.governed); got != row.want {
			t.Errorf("budget %+v of %d nodes: got %d, want %d", row.reactions, row.governed, got, row.want)
		}
	}
}

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
const digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func digest(t *testing.T, text string) attest.Digest {
	t.Helper()
	d, err := attest.ParseDigest(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// enforcing is a policy with everything in it.
func enforcing(name string, nodes ...string) v1alpha1.NodePolicy {
	p := policy(name, 0, v1alpha1.NodeSelector{Names: nodes})
	p.Generation, p.Status.ObservedGeneration, p.Status.Budget = 3, 3, 2
	p.Spec.Mode = "Enforce"
	p.Spec.Runtime = &v1alpha1.PolicyReference{Name: "host", Digest: digestB}
	p.Spec.Boot = &v1alpha1.PolicyReference{Name: "boot", Digest: digestA}
	p.Spec.Reactions = &v1alpha1.NodeReactions{Kinds: []string{"Label", "Taint", "Cordon", "Notify"}, TaintEffect: "NoExecute"}
	return p
}

func TestWishOf(t *testing.T) {
	p := enforcing("workers", "a")
	p.Spec.Interval = &metav1.Duration{Duration: 5e9}
	p.Spec.Readmit, p.Spec.Reimage, p.Spec.ContainerFiles = "Approval", "Allow", "Ignore"
	p.Spec.EndorsedBy = []string{digestA}
	p.Spec.WhenSilent = &v1alpha1.WhenSilent{Kinds: []string{"Label"}, After: metav1.Duration{Duration: 600e9}}
	p.Spec.Reactions.DryRun = true
	want := wish{policies: []string{digestA, digestB}, interval: 5, assignment: api.Assignment{
		Owner: "NodePolicy/workers", Mode: api.Enforce, Budget: 2, DryRun: true, Readmit: api.ReadmitApproval, Reimage: api.ReimageAllow, ContainerFiles: api.ContainerFilesIgnore,
		Reactions:  []api.ReactionKind{api.ReactLabel, api.ReactTaint, api.ReactCordon, api.ReactNotify},
		WhenSilent: &api.WhenSilent{Reactions: []api.ReactionKind{api.ReactLabel}, After: 600},
		EndorsedBy: []attest.Digest{digest(t, digestA)},
	}}
	got, err := wishOf(&p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(wish{}), cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := got.assignment.Validate(); err != nil {
		t.Errorf("the server refuses it: %v", err)
	}

	t.Run("a budget of an older generation is none", func(t *testing.T) {
		p := enforcing("workers", "a")
		p.Generation++
		got, err := wishOf(&p)
		if err != nil || got.assignment.Budget != 0 {
			t.Errorf("budget %d, %v; want 0", got.assignment.Budget, err)
		}
	})
	t.Run("a fingerprint that is none", func(t *testing.T) {
		p := enforcing("workers", "a")
		p.Spec.EndorsedBy = []string{"sha256:short"}
		if got, err := wishOf(&p); err == nil {
			t.Errorf("got %+v, want an error", got)
		}
	})
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"plain text":               "plain text",
		"esc \x1b[31m red":         "esc ␦[31m red",
		"new\nline":                "new␦line",
		"\xff\xfe":                 "␦␦",
		"a very long text of this": "a very long te…",
		"umlaut äöü":               "umlaut äöü",
		"\u202egnp.exe":            "␦gnp.exe",
	} {
		if got := printable(in, 17); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
