package nodes

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

const agentA attest.AgentID = "agent-a"

// machine is an enrolled one that is Trusted under the documents of enforcing.
func machine(t *testing.T, change func(*api.Node)) *api.Node {
	t.Helper()
	n := &api.Node{
		ID: agentA, Verdict: attest.Trusted, Since: now.Add(-time.Hour), Failures: []attest.Failure{}, TpmPresent: true, EndorsedBy: "CN=Maker", Interval: 30,
		LastAccepted: now.Add(-time.Second), Boot: "boot-1", IMAPolicy: true, KubernetesNode: &api.KubernetesNode{Name: "a", UID: "uid-of-x"},
		Assigned:  []attest.PolicyRef{{Kind: "Boot", Name: "boot", Digest: digest(t, digestA)}, {Kind: "Runtime", Name: "host", Digest: digest(t, digestB)}},
		Appraised: []attest.PolicyRef{{Kind: "Boot", Name: "boot", Digest: digest(t, digestA)}, {Kind: "Runtime", Name: "host", Digest: digest(t, digestB)}},
	}
	p := enforcing("workers", "a")
	want, err := wishOf(&p)
	if err != nil {
		t.Fatal(err)
	}
	n.Assignment = want.assignment
	if change != nil {
		change(n)
	}
	return n
}

func failed(n *api.Node) {
	n.Verdict, n.QuoteBacked = attest.Failed, true
	n.Failures = []attest.Failure{{ID: attest.FileDigestMismatch, Path: "/usr/bin/\x1b[2Jx", Detail: "is not what was approved"}}
}

// calm is a situation in which nothing has to be done: a Trusted node under an Enforce policy, and everything is written.
func calm(t *testing.T) situation {
	t.Helper()
	s := situation{now: now, connected: true, policies: []v1alpha1.NodePolicy{enforcing("workers", "a")}, machine: machine(t, nil)}
	s.node = node("a", map[string]string{v1alpha1.LabelTPM: "true", v1alpha1.LabelVerdict: "Trusted"})
	s.report = decide(s).status
	return s
}

func TestCalmDoesNothing(t *testing.T) {
	s := calm(t)
	d := decide(s)
	if diff := cmp.Diff(decision{status: s.report, labels: map[string]string{}}, d, cmp.AllowUnexported(decision{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	later := s
	later.now = now.Add(time.Hour)
	later.machine = machine(t, func(n *api.Node) { n.LastAccepted, n.Accepted = later.now, 99 })
	if diff := cmp.Diff(s.report, decide(later).status); diff != "" {
		t.Errorf("an hour without a transition changed the report (-before +after):\n%s", diff)
	}
}

// says has the agent of a situation say something of its IMA policy; "" for nothing.
func says(t *testing.T, s situation, words string) situation {
	t.Helper()
	s.machine = machine(t, func(n *api.Node) {
		n.IMAPolicy, n.Heartbeat = false, &api.AgentReport{}
		if words != "" {
			n.Heartbeat.Preflight = []api.PreflightCheck{{Name: "ima-policy-file", Status: api.PreflightOK, Detail: words}}
		}
	})
	return s
}

// TestReportedIMAPolicyIsPassedOn: what an agent says of its IMA policy is passed on when it changes, without a transition; the same words are written once.
func TestReportedIMAPolicyIsPassedOn(t *testing.T) {
	s := says(t, calm(t), "the next boot finds it")
	s.report = decide(s).status
	for _, words := range []string{"the next boot finds it", "this boot runs it"} {
		d := decide(says(t, s, words))
		after := d.status
		c := meta.FindStatusCondition(after.Conditions, v1alpha1.ConditionImaPolicy)
		if c == nil || !strings.Contains(c.Message, words) {
			t.Errorf("the agent says %q, and the report %+v", words, c)
		}
		if same := words == "the next boot finds it"; same != cmp.Equal(s.report, after) || same == d.rewritten {
			t.Errorf("%q: report as before: %v\n%s", words, !same, cmp.Diff(s.report, after))
		}
	}
}

// TestReportedIMAPolicyIsPaced: an agent that says something else at each preflight, or says something at every other one, has the report written a few times
// at once and then once in five minutes. What it said last is written then, and a transition at once.
func TestReportedIMAPolicyIsPaced(t *testing.T) {
	var words pace
	s := calm(t)
	writes, wait := 0, time.Duration(0)
	say := func(text string) {
		s = says(t, s, text)
		s.words = words.until(s.node.UID)
		d := decide(s)
		if !cmp.Equal(s.report, d.status) {
			writes++
		}
		if d.rewritten {
			words.rewritten(s.node.UID, s.now)
		}
		s.report, wait = d.status, d.words
	}
	say("first")
	writes = 0
	for i := range 12 * 20 { // an hour of readings
		say([]string{"x", "", "y", "z"}[i%4])
		s.now = s.now.Add(15 * time.Second)
	}
	if want := wordsBurst + 12 - 1; writes < wordsBurst || writes > want {
		t.Errorf("%d writes in an hour, want at most %d", writes, want)
	}
	for i := range 2 * wordsBurst {
		say(strconv.Itoa(i))
	}
	if say("last"); wait <= 0 || wait > wordsInterval {
		t.Errorf("it is looked at again in %v", wait)
	}
	s.now = s.now.Add(wait)
	say("last")
	if c := meta.FindStatusCondition(s.report.Conditions, v1alpha1.ConditionImaPolicy); wait != 0 || !strings.Contains(c.Message, "last") {
		t.Errorf("another look in %v, %+v", wait, c)
	}
	s.machine, s.words = machine(t, nil), words.until(s.node.UID)
	if got := condition(decide(s), v1alpha1.ConditionImaPolicy); got != "True/ImaPolicyApproved" {
		t.Errorf("a proof is kept waiting: %s", got)
	}
	s.now = s.now.Add(time.Hour)
	words.rewritten("uid-of-another", s.now)
	if len(words.paid) != 1 || !words.until(s.node.UID).IsZero() {
		t.Errorf("nothing is forgotten: %v", words.paid)
	}
}

// condition returns "Status/Reason".
func condition(d decision, kind string) string {
	c := meta.FindStatusCondition(d.status.Conditions, kind)
	if c == nil {
		return "absent"
	}
	return string(c.Status) + "/" + c.Reason
}

func reasons(d decision) []string {
	var list []string
	for _, n := range d.notes {
		list = append(list, n.reason)
	}
	return list
}

func TestConditions(t *testing.T) {
	observe := func(s *situation) { s.policies[0].Spec.Mode = "Observe" }
	with := func(change func(*api.Node)) func(*situation) {
		return func(s *situation) { change(s.machine) }
	}
	for name, row := range map[string]struct {
		change func(*situation)
		want   map[string]string
		events []string
	}{
		"trusted": {func(*situation) {}, map[string]string{"Registered": "True/Enrolled", "Endorsed": "True/Endorsed", "Trusted": "True/Trusted", "Fresh": "True/Fresh", "TpmPresent": "True/TpmProven", "ImaPolicy": "True/ImaPolicyApproved"}, nil},
		"failed":  {with(failed), map[string]string{"Trusted": "False/FileDigestMismatch", "Fresh": "True/Fresh", "ImaPolicy": "True/ImaPolicyApproved"}, []string{"VerdictFailed"}},
		"unauthenticated": {with(func(n *api.Node) {
			n.Verdict, n.Failures = attest.Failed, []attest.Failure{{ID: attest.NonceMismatch}}
		}), map[string]string{"Trusted": "False/NonceMismatch", "Fresh": "False/Unauthenticated"}, []string{"VerdictFailed"}},
		"stale": {with(func(n *api.Node) {
			n.Verdict, n.Trouble = attest.Stale, &attest.Failure{ID: attest.Unreachable, Detail: "connection refused"}
		}), map[string]string{"Trusted": "False/Unreachable", "Fresh": "False/Stale", "Registered": "True/Enrolled"}, []string{"VerdictStale"}},
		"pending": {with(func(n *api.Node) { n.Verdict, n.LastAccepted = attest.Pending, time.Time{} }), map[string]string{"Trusted": "Unknown/Pending", "Fresh": "Unknown/NoEvidence"}, []string{"VerdictPending"}},
		"paused":  {with(func(n *api.Node) { n.Verdict = attest.Paused }), map[string]string{"Trusted": "False/Paused"}, []string{"VerdictPaused"}},
		"no policy": {func(s *situation) {
			s.policies, s.report, s.machine.Verdict = nil, v1alpha1.NodeReportStatus{}, attest.Unappraised
		}, map[string]string{"Trusted": "False/NoPolicy"}, []string{"VerdictUnappraised", "AgentBound"}},
		"another IMA policy": {with(func(n *api.Node) {
			failed(n)
			n.Failures = append(n.Failures, attest.Failure{ID: attest.ImaPolicyNotApproved})
		}), map[string]string{"ImaPolicy": "False/ImaPolicyNotApproved", "Trusted": "False/FileDigestMismatch"}, []string{"VerdictFailed"}},
		"no IMA policy shown":                    {with(func(n *api.Node) { n.IMAPolicy = false }), map[string]string{"ImaPolicy": "Unknown/NotAppraised", "Trusted": "True/Trusted"}, nil},
		"an IMA policy, and no Runtime document": {with(func(n *api.Node) { n.Appraised = n.Appraised[:1] }), map[string]string{"ImaPolicy": "Unknown/NotAppraised"}, nil},
		"failures that leave some out": {with(func(n *api.Node) {
			failed(n)
			n.Failures = slices.Repeat(n.Failures, attest.MaxFailures)
		}), map[string]string{"ImaPolicy": "Unknown/NotAppraised"}, []string{"VerdictFailed"}},
		"unauthenticated, with an IMA policy of before": {with(func(n *api.Node) {
			n.Verdict, n.Failures = attest.Failed, []attest.Failure{{ID: attest.NonceMismatch}}
		}), map[string]string{"ImaPolicy": "Unknown/NotAppraised"}, []string{"VerdictFailed"}},
		"an IMA policy that is only said": {with(func(n *api.Node) {
			n.IMAPolicy = false
			n.Heartbeat = &api.AgentReport{Preflight: []api.PreflightCheck{{Name: "ima-policy-file", Status: api.PreflightOK, Detail: "the next boot finds it"}}}
		}), map[string]string{"ImaPolicy": "Unknown/ImaPolicyReported"}, nil},
		"first use": {with(func(n *api.Node) { n.FirstUse, n.EndorsedBy = true, "" }), map[string]string{"Endorsed": "False/FirstUse", "Trusted": "True/Trusted"}, nil},
		"emulated":  {with(func(n *api.Node) { n.Emulated = true }), map[string]string{"Endorsed": "True/Emulated"}, nil},
		"no TPM, Observe": {func(s *situation) {
			observe(s)
			*s.machine = api.Node{ID: "uid-of-x", Verdict: attest.Unappraised, Reason: api.ReasonNoTpm, KubernetesNode: s.machine.KubernetesNode}
		}, map[string]string{"Registered": "False/NoTpm", "Trusted": "False/NoTpm", "TpmPresent": "False/NoTpm", "Endorsed": "False/NoTpm", "Fresh": "Unknown/NoEvidence"}, []string{"VerdictUnappraised"}},
		"no TPM, Enforce": {func(s *situation) {
			*s.machine = api.Node{ID: "uid-of-x", Verdict: attest.Unappraised, Reason: api.ReasonNoTpm, KubernetesNode: s.machine.KubernetesNode}
		}, map[string]string{"Trusted": "False/NoTpm", "TpmPresent": "False/NoTpm"}, []string{"VerdictFailed"}},
		"nobody there": {func(s *situation) { s.machine, s.report = nil, v1alpha1.NodeReportStatus{} }, map[string]string{"Registered": "False/NoClaim", "Trusted": "Unknown/NotEnrolled", "TpmPresent": "True/TpmReported"}, nil},
		"claimed": {func(s *situation) { s.machine, s.report, s.claimed = nil, v1alpha1.NodeReportStatus{}, agentA },
			map[string]string{"Registered": "False/NotEnrolled", "Trusted": "Unknown/NotEnrolled"}, []string{"AgentBound"}},
		"not endorsed": {func(s *situation) {
			s.machine, s.report, s.claimed = nil, v1alpha1.NodeReportStatus{}, agentA
			s.enrolment = &refusedEnrolment{failures: []attest.Failure{{ID: attest.EkNotEndorsed, Detail: "no root"}}, message: "no root"}
		}, map[string]string{"Registered": "False/EkNotEndorsed", "Endorsed": "False/EkNotEndorsed"}, []string{"AgentBound"}},
		"refused claim": {func(s *situation) {
			s.machine, s.report = nil, v1alpha1.NodeReportStatus{}
			s.refusal = &v1alpha1.Refusal{Reason: RefusedConflict, Message: "bound to another"}
		}, map[string]string{"Registered": "False/AlreadyBound"}, []string{"AlreadyBound"}},
		"server away, new node": {func(s *situation) { s.connected, s.machine, s.report = false, nil, v1alpha1.NodeReportStatus{} }, map[string]string{"Registered": "Unknown/ServerUnreachable"}, nil},
		"server away":           {func(s *situation) { s.connected, s.machine = false, nil }, map[string]string{"Registered": "True/Enrolled", "Trusted": "True/Trusted"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := calm(t)
			row.change(&s)
			d := decide(s)
			for kind, want := range row.want {
				if got := condition(d, kind); got != want {
					t.Errorf("%s: got %s, want %s", kind, got, want)
				}
			}
			if diff := cmp.Diff(row.events, reasons(d)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if strings.Contains(d.status.Verdict, "\x1b") || len(d.status.Failures) > 0 && strings.Contains(d.status.Failures[0].Path, "\x1b") {
				t.Errorf("an escape sequence got through: %+v", d.status)
			}
		})
	}
}

func TestDetailsOfARoundAreNoTransition(t *testing.T) {
	s := calm(t)
	stale := func(detail string) {
		s.machine = machine(t, func(n *api.Node) {
			n.Verdict, n.Since, n.Trouble = attest.Stale, now, &attest.Failure{ID: attest.Unreachable, Detail: detail}
		})
	}
	stale("from port 40001")
	s.report = decide(s).status
	stale("from port 40002")
	if diff := cmp.Diff(s.report, decide(s).status); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

func TestAssignment(t *testing.T) {
	s := calm(t)
	t.Run("a claimed agent is enrolled under its policy", func(t *testing.T) {
		s := s
		s.machine, s.report, s.claimed, s.firstUse = nil, v1alpha1.NodeReportStatus{}, agentA, true
		want, _ := wishOf(&s.policies[0])
		if diff := cmp.Diff(&api.EnrolRequest{ID: agentA, Policies: want.policies, Assignment: &want.assignment, FirstUse: true}, decide(s).enrol, digests()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("one without a policy is enrolled too", func(t *testing.T) {
		s := s
		s.machine, s.report, s.claimed, s.policies = nil, v1alpha1.NodeReportStatus{}, agentA, nil
		if diff := cmp.Diff(&api.EnrolRequest{ID: agentA, Policies: []string{}}, decide(s).enrol); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("nothing is asked of a server that is away", func(t *testing.T) {
		s := s
		s.machine, s.claimed, s.connected = nil, agentA, false
		if d := decide(s); d.enrol != nil || d.update != nil {
			t.Errorf("got %+v", d)
		}
	})
	t.Run("a changed policy is assigned", func(t *testing.T) {
		s := s
		s.policies = []v1alpha1.NodePolicy{enforcing("workers", "a")}
		s.policies[0].Spec.Boot = nil
		s.policies[0].Spec.Mode = "Observe"
		u := decide(s).update
		if u == nil || u.Policies == nil || u.Assignment == nil || u.Interval != nil {
			t.Fatalf("got %+v", u)
		}
		if diff := cmp.Diff([]string{digestB}, *u.Policies); diff != "" || u.Assignment.Mode != api.Observe {
			t.Errorf("%+v %s", u.Assignment, diff)
		}
	})
	t.Run("one that was removed at the server waits for a new claim", func(t *testing.T) {
		s := s
		s.machine = nil
		d := decide(s)
		if d.enrol != nil || d.status.Agent != "" || condition(d, "Registered") != "False/NoClaim" {
			t.Errorf("enrols %+v, agent %q, %s", d.enrol, d.status.Agent, condition(d, "Registered"))
		}
	})
	t.Run("what a person assigned stays", func(t *testing.T) {
		s := s
		s.policies, s.report = nil, v1alpha1.NodeReportStatus{}
		s.machine = machine(t, func(n *api.Node) { n.Assignment = api.Assignment{} })
		if u := decide(s).update; u != nil {
			t.Errorf("got %+v", u)
		}
	})
}

func digests() cmp.Option { return cmp.Comparer(func(a, b attest.Digest) bool { return a == b }) }

func TestLostPolicy(t *testing.T) {
	escape := func(s *situation) { s.policies[0].Spec.Selector.Names = []string{"b"} }
	t.Run("of a trusted node", func(t *testing.T) {
		s := calm(t)
		escape(&s)
		d := decide(s)
		if condition(d, "Trusted") != "False/PolicyLost" || d.status.LostPolicy != "workers" || !cmp.Equal(reasons(d), []string{"PolicyLost"}) {
			t.Errorf("%s, lost %q, events %v", condition(d, "Trusted"), d.status.LostPolicy, reasons(d))
		}
		if d.update == nil || d.update.Assignment == nil || d.update.Assignment.Owner != "" {
			t.Errorf("update %+v, want no owner", d.update)
		}
	})
	t.Run("of a failed node: it keeps what it was assigned", func(t *testing.T) {
		s := calm(t)
		failed(s.machine)
		escape(&s)
		d := decide(s)
		if d.update != nil || condition(d, "Trusted") != "False/PolicyLost" {
			t.Errorf("update %+v, %s", d.update, condition(d, "Trusted"))
		}
	})
	t.Run("of a failed node whose policy a person deleted", func(t *testing.T) {
		s := calm(t)
		failed(s.machine)
		s.policies = nil
		if d := decide(s); d.update == nil || condition(d, "Trusted") != "False/PolicyLost" {
			t.Errorf("update %+v, %s", d.update, condition(d, "Trusted"))
		}
	})
	t.Run("the alarm stays until a policy governs again", func(t *testing.T) {
		s := calm(t)
		escape(&s)
		s.report = decide(s).status
		if d := decide(s); d.status.LostPolicy != "workers" || len(d.notes) != 0 {
			t.Errorf("lost %q, events %v", d.status.LostPolicy, reasons(d))
		}
		s.policies = calm(t).policies
		if d := decide(s); d.status.LostPolicy != "" || condition(d, "Trusted") != "True/Trusted" {
			t.Errorf("lost %q, %s", d.status.LostPolicy, condition(d, "Trusted"))
		}
	})
}

func TestReplacedNode(t *testing.T) {
	s := calm(t)
	s.report.Reaction = &v1alpha1.AppliedReaction{ID: 7, Cordoned: true}
	s.node.UID, s.machine = "another", nil
	d := decide(s)
	if d.status.Agent != "" || d.status.Reaction != nil || d.status.NodeUID != "another" || d.enrol != nil {
		t.Errorf("a new Node object inherits %+v", d.status)
	}
	if reasons(d)[0] != "NodeReplaced" {
		t.Errorf("events %v", reasons(d))
	}
}

func TestTPMLabel(t *testing.T) {
	plain := func() *corev1.Node { return node("a", nil) }
	ready := func(n *corev1.Node, since time.Duration) *corev1.Node {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
		return n
	}
	offering := func(n *corev1.Node, shares string) *corev1.Node {
		n.Status.Allocatable = corev1.ResourceList{v1alpha1.ResourceTPM: resource.MustParse(shares)}
		return n
	}
	for name, row := range map[string]struct {
		node *corev1.Node
		want string // what is set; "-" for nothing
	}{
		"not ready yet":           {plain(), "-"},
		"ready since a moment":    {ready(plain(), 5*time.Second), "-"},
		"ready, offers none":      {ready(plain(), 5*time.Minute), "false"},
		"offers shares":           {offering(ready(plain(), time.Second), "8"), "true"},
		"offers none for a while": {offering(ready(node("a", map[string]string{v1alpha1.LabelTPM: "true"}), 5*time.Minute), "0"), "-"},
		"offers none, never did":  {offering(ready(plain(), 5*time.Minute), "0"), "false"},
		"got one":                 {offering(node("a", map[string]string{v1alpha1.LabelTPM: "false"}), "8"), "true"},
		"node feature discovery":  {node("a", map[string]string{"nfd/tpm": "true"}), "true"},
	} {
		t.Run(name, func(t *testing.T) {
			d := decide(situation{now: now, node: row.node, tpmLabel: "nfd/tpm"})
			got, set := d.labels[v1alpha1.LabelTPM]
			if !set {
				got = "-"
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}

// TestNodesOwnWordsOnTPMs: a kubelet can write the labels of its TPM, and withdraw the resource. Whatever it says there, a machine that failed stays failed under
// its policy and its reaction, and one that never proved a TPM does not become trusted.
func TestNodesOwnWordsOnTPMs(t *testing.T) {
	for name, labels := range map[string]map[string]string{
		"no label":                nil,
		"discovery says a TPM":    {"nfd/tpm": "true"},
		"discovery says none":     {"nfd/tpm": "false"},
		"our label says none":     {v1alpha1.LabelTPM: "false"},
		"our label says a TPM":    {v1alpha1.LabelTPM: "true"},
		"they contradict":         {v1alpha1.LabelTPM: "false", "nfd/tpm": "true"},
		"words that are no words": {v1alpha1.LabelTPM: "maybe", "nfd/tpm": "\x1b[2J"},
	} {
		t.Run(name, func(t *testing.T) {
			s := calm(t)
			s.tpmLabel = "nfd/tpm"
			failed(s.machine)
			s.reaction = everything()
			s.reaction.State = api.ReactionApplied
			s.node.Labels = labels
			d := decide(s)
			if d.status.Verdict != "Failed" || d.status.Policy != "workers" || d.status.LostPolicy != "" || d.repair == nil || d.update != nil || condition(d, v1alpha1.ConditionTpmPresent) != "True/TpmProven" {
				t.Errorf("a failed machine: %+v", d)
			}
			s.machine, s.reaction = nil, nil
			s.report = v1alpha1.NodeReportStatus{}
			d = decide(s)
			if d.status.Verdict == "Trusted" || d.enrol != nil || strings.HasPrefix(condition(d, v1alpha1.ConditionTrusted), "True") || d.labels[v1alpha1.LabelVerdict] != "" {
				t.Errorf("without a machine: %+v", d)
			}
		})
	}
}

func TestVerdictLabel(t *testing.T) {
	applied := &api.Reaction{ID: 1, State: api.ReactionApplied, Kinds: []api.ReactionKind{api.ReactLabel}, Owner: "NodePolicy/workers"}
	for name, row := range map[string]struct {
		change func(*situation)
		want   string
	}{
		"trusted":                    {func(*situation) {}, "Trusted"},
		"stale":                      {func(s *situation) { s.machine.Verdict = attest.Stale }, "Stale"},
		"failed outside the budget":  {func(s *situation) { failed(s.machine) }, ""},
		"failed, reaction applied":   {func(s *situation) { failed(s.machine); s.reaction = applied }, "Failed"},
		"failed, reaction is due":    {func(s *situation) { failed(s.machine); r := *applied; r.State = api.ReactionDue; s.reaction = &r }, ""},
		"failed, dry run":            {func(s *situation) { failed(s.machine); r := *applied; r.DryRun = true; s.reaction = &r }, ""},
		"Observe touches nothing":    {func(s *situation) { s.policies[0].Spec.Mode = "Observe" }, ""},
		"without the reaction Label": {func(s *situation) { s.policies[0].Spec.Reactions.Kinds = []string{"Taint"} }, ""},
		"no policy":                  {func(s *situation) { s.policies = nil }, ""},
		"no machine":                 {func(s *situation) { s.machine = nil }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := calm(t)
			row.change(&s)
			d := decide(s)
			got, set := d.labels[v1alpha1.LabelVerdict]
			if !set {
				got = s.node.Labels[v1alpha1.LabelVerdict]
			}
			if got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
