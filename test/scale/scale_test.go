package scale

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	kube "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

const (
	failing = 50
	budget  = 20
)

// size says how much is simulated.
type size struct {
	nodes    int
	interval time.Duration // between two rounds of a machine
	idle     time.Duration // how long nothing happens
}

// figures are what was measured.
type figures struct {
	joining, returning, resting time.Duration // first start with enrolment; all reports anew; a start with nothing to do
	join, anew, again, burst    counts
	idle                        counts
}

// TestFleet: thousands of nodes join, an operator that starts again has nothing to write, a burst of failures is reacted to within the budget, and when
// nothing happens, nothing is written. No time is asserted.
func TestFleet(t *testing.T) {
	measure(t, size{nodes: 1000, interval: 20 * time.Second, idle: 20 * time.Second})
}

// BenchmarkFleet is for make bench.
func BenchmarkFleet(b *testing.B) {
	for b.Loop() {
		s := size{nodes: 5000, interval: time.Minute, idle: 30 * time.Second}
		f := measure(b, s)
		b.ReportMetric(f.joining.Seconds(), "s/join")
		b.ReportMetric(f.join.cpu.Seconds(), "cpu-s/join")
		b.ReportMetric(f.returning.Seconds(), "s/reconcile")
		b.ReportMetric(f.anew.cpu.Seconds(), "cpu-s/reconcile")
		b.ReportMetric(float64(max(f.join.peak, f.anew.peak, f.idle.peak))/(1<<20), "MiB/peak")
		b.ReportMetric(float64(f.idle.rss)/(1<<20), "MiB/idle")
		b.ReportMetric(f.idle.cpu.Seconds()/s.idle.Seconds()*1000, "cpu-ms/s-idle")
		b.ReportMetric(f.join.reports/float64(s.nodes), "writes/join")
		b.ReportMetric(f.again.reports, "writes/restart")
		b.ReportMetric(f.idle.reports+f.idle.policies, "writes/idle")
		b.ReportMetric(f.idle.requests/s.idle.Seconds(), "requests/s-idle")
	}
}

func measure(t testing.TB, s size) figures {
	began := time.Now()
	program := buildOperator(t)
	built := time.Now()
	k := startKubernetes(t)
	f := newFleet(t, s.nodes)
	server := startServer(t, f, s.interval)
	k.platform(server)
	k.nodes(f)
	k.claims(f, server)
	k.policy(server)
	t.Logf("the operator was built in %v; %d nodes are Ready, and their agents wait, after %v more", built.Sub(began).Round(time.Second), s.nodes, time.Since(built).Round(time.Second))
	m := &measurement{kubernetes: k, fleet: f, server: server, program: program, size: s}
	m.joins()
	m.restarts()
	m.fails()
	m.rests()
	return m.figures
}

// measurement goes through the story step by step.
type measurement struct {
	*kubernetes
	fleet    *fleet
	server   *server
	program  string
	size     size
	operator *operator
	figures  figures
}

// policy governs all nodes, with a budget.
func (k *kubernetes) policy(s *server) {
	k.t.Helper()
	added, err := s.admin.AddPolicy(k.t.Context(), document(), "")
	if err != nil {
		k.t.Fatal(err)
	}
	k.create(&v1alpha1.NodePolicy{ObjectMeta: metav1.ObjectMeta{Name: "fleet"}, Spec: v1alpha1.NodePolicySpec{
		Selector: v1alpha1.NodeSelector{MatchLabels: map[string]string{fleetLabel: "true"}}, Mode: "Enforce",
		Runtime:   &v1alpha1.PolicyReference{Name: added.Name, Digest: added.Digest.String()},
		Reactions: &v1alpha1.NodeReactions{Kinds: []string{"Taint", "Label", "Notify"}, Budget: intstr.FromInt32(budget)},
	}})
}

// policyIs waits until the status of the policy is as wanted.
func (m *measurement) policyIs(what string, is func(v1alpha1.NodePolicyStatus) bool) {
	m.t.Helper()
	var policy v1alpha1.NodePolicy
	m.eventually(what, func() bool {
		return m.kube.Get(m.t.Context(), kube.ObjectKey{Name: "fleet"}, &policy) == nil && is(policy.Status)
	})
}

// settled waits until the operator has nothing left to do, and returns its counts.
func (m *measurement) settled() (c counts) {
	m.t.Helper()
	before := counts{reconciles: -1}
	m.eventually("the operator has nothing left to do", func() bool {
		var ok bool
		c, ok = m.operator.counts()
		done := ok && c.connected && c.waiting == 0 && c.reconciles >= float64(m.size.nodes) && c.reconciles == before.reconciles && c.requests == before.requests
		before = c
		return done
	})
	return c
}

// trusted checks every single report.
func (m *measurement) trusted() {
	m.t.Helper()
	reports := m.reports()
	if len(reports) != m.size.nodes {
		m.t.Fatalf("%d reports, want %d", len(reports), m.size.nodes)
	}
	for _, r := range reports {
		if r.Status.Verdict != string(attest.Trusted) || r.Status.Policy != "fleet" || r.Status.NodeUID == "" || r.Status.Agent == "" {
			m.t.Fatalf("the report of %s: %+v", r.Name, r.Status)
		}
	}
}

// joins starts the operator for the first time: everything is claimed, enrolled, assigned and judged.
func (m *measurement) joins() {
	began := time.Now()
	m.operator = m.kubernetes.operator(m.program)
	m.policyIs("all nodes are trusted", func(s v1alpha1.NodePolicyStatus) bool { return int(s.Trusted) == m.size.nodes })
	m.figures.joining = time.Since(began)
	m.figures.join = m.settled()
	m.trusted()
	m.t.Logf("joined in %v: %v", m.figures.joining.Round(time.Millisecond), m.figures.join)
	// Claimed; enrolled and perhaps not judged yet; trusted.
	if writes := m.figures.join.reports; writes > float64(4*m.size.nodes) {
		m.t.Errorf("%.0f status writes for %d nodes that joined", writes, m.size.nodes)
	}
}

// restarts starts the operator again, once with all reports gone and once with all in place.
func (m *measurement) restarts() {
	m.operator.stop()
	if err := m.kube.DeleteAllOf(m.t.Context(), &v1alpha1.NodeReport{}); err != nil {
		m.t.Fatal(err)
	}
	began := time.Now()
	m.operator = m.kubernetes.operator(m.program)
	m.eventually("all reports are written", func() bool {
		c, ok := m.operator.counts()
		return ok && c.reports >= float64(m.size.nodes)
	})
	m.figures.returning = time.Since(began)
	m.figures.anew = m.settled()
	m.trusted()
	m.t.Logf("all reports anew in %v: %v", m.figures.returning.Round(time.Millisecond), m.figures.anew)
	// One for each, but for what happens meanwhile: a start says nothing before it has heard the server.
	if writes := m.figures.anew.reports; writes > float64(m.size.nodes+m.size.nodes/10) {
		m.t.Errorf("%.0f status writes for %d reports", writes, m.size.nodes)
	}

	m.operator.stop()
	began = time.Now()
	m.operator = m.kubernetes.operator(m.program)
	m.figures.again = m.settled()
	m.figures.resting = time.Since(began)
	m.t.Logf("started again in %v: %v", m.figures.resting.Round(time.Millisecond), m.figures.again)
	if writes := m.figures.again.reports + m.figures.again.policies; writes > 0 {
		m.t.Errorf("%.0f status writes after a start that found everything in place", writes)
	}
}

func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == v1alpha1.TaintUntrusted })
}

// fails has a burst of machines run what nobody approved.
func (m *measurement) fails() {
	before, began := m.operator.now(), time.Now()
	for _, machine := range m.fleet.machines[:failing] {
		machine.run(intruderFile)
	}
	m.policyIs("the burst is told, and reacted to", func(s v1alpha1.NodePolicyStatus) bool { return s.Failed == failing && s.Reacting == budget })
	m.eventually("the nodes within the budget are tainted", func() bool { return m.count(tainted) >= budget })
	took := time.Since(began)
	m.figures.burst = m.settled().since(before)
	m.t.Logf("%d failures, which come within %v, took %v: %v", failing, m.size.interval, took.Round(time.Millisecond), m.figures.burst)
	if n := m.count(tainted); n != budget {
		m.t.Errorf("%d nodes are tainted, the budget is %d", n, budget)
	}
	for state, want := range map[api.ReactionState]int{api.ReactionApplied: budget, api.ReactionWaiting: failing - budget} {
		if rows, err := m.server.admin.Reactions(m.t.Context(), string(state)); err != nil || len(rows) != want {
			m.t.Errorf("%d reactions are %s, want %d: %v", len(rows), state, want, err)
		}
	}
	// The verdict, the intent of a reaction, and what became of it.
	if writes := m.figures.burst.reports; writes > failing+2*budget {
		m.t.Errorf("%.0f status writes for %d failures and %d reactions", writes, failing, budget)
	}
}

// rests lets machines be attested and kubelets send heartbeats, and nothing else happen.
func (m *measurement) rests() {
	before := m.operator.now()
	time.Sleep(m.size.idle)
	m.figures.idle = m.operator.now().since(before)
	m.t.Logf("%v of rest: %v, and %.0f renewals of the lease", m.size.idle, m.figures.idle, m.figures.idle.leases)
	if c := m.figures.idle; c.reports+c.policies > 0 || c.reconciles > 0 {
		m.t.Errorf("%.0f status writes and %.0f reconciles while nothing happened", c.reports+c.policies, c.reconciles)
	}
	// Each of some ten watches may end and be taken up again.
	if c := m.figures.idle; c.requests > 30 || c.leases > m.size.idle.Seconds() {
		m.t.Errorf("%.0f requests and %.0f renewals in %v while nothing happened", c.requests, c.leases, m.size.idle)
	}
}
