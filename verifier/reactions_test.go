package verifier

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier/boxtest"
)

const operatorName = "operator-1"

// enforcing is what a NodePolicy makes of a node.
func enforcing() api.Assignment {
	return api.Assignment{
		Owner: "NodePolicy/workers", Mode: api.Enforce, Budget: 1, Reactions: []api.ReactionKind{api.ReactTaint, api.ReactLabel},
		WhenSilent: &api.WhenSilent{Reactions: []api.ReactionKind{api.ReactLabel}, After: 600},
	}
}

func (f *fleet) assign(id attest.AgentID, a api.Assignment) {
	f.t.Helper()
	if err := f.v.Update(f.t.Context(), id, Update{Assignment: &a, ByOwner: true}); err != nil {
		f.t.Fatal(err)
	}
}

// reactions are the open rows as "NODE CAUSE STATE".
func (f *fleet) reactions() []string {
	f.t.Helper()
	rows, err := f.v.Reactions(f.t.Context(), reaction.Query{States: reaction.Open()})
	if err != nil {
		f.t.Fatal(err)
	}
	var all []string
	for _, r := range rows {
		all = append(all, string(r.Node)+" "+string(r.Cause)+" "+string(r.State))
	}
	return all
}

func (f *fleet) wantReactions(when string, want ...string) {
	f.t.Helper()
	if got := f.reactions(); !slices.Equal(got, want) {
		f.t.Errorf("%s: open reactions %q, want %q", when, got, want)
	}
}

// act claims a row and reports it done.
func (f *fleet) act(id uint64) {
	f.t.Helper()
	claimed, err := f.v.ClaimReaction(f.t.Context(), id, operatorName)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := f.v.ReportReaction(f.t.Context(), reaction.By{ID: id, Name: operatorName}, api.ReactionReport{Claim: claimed.Claim, Done: true}); err != nil {
		f.t.Fatal(err)
	}
}

// The verdict's transaction decides, the budget holds, and what was done is undone when trust returns.
func TestFailureIsReactedToAndLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		first, second := f.enrol(node1, "base"), f.enrol("node-2", "base")
		f.assign(node1, enforcing())
		f.assign("node-2", enforcing())
		sleep(round)
		f.wantReactions("while all is well")
		f.on(func() { first.Run("/usr/bin/evil", "") })
		sleep(round)
		f.on(func() { second.Run("/usr/bin/evil", "") })
		sleep(round)
		f.wantReactions("after two failures", "node-1 Failure Due", "node-2 Failure Waiting")
		rows, err := f.v.Reactions(t.Context(), reaction.Query{ID: 1})
		if err != nil || rows[0].Seq != f.node(node1).State.Seq || !slices.Equal(rows[0].Kinds, enforcing().Reactions) {
			t.Errorf("row %+v, %v", rows, err)
		}
		f.act(1)
		f.wantReactions("after the operator", "node-1 Failure Applied", "node-2 Failure Waiting")
		f.on(first.Reset)
		sleep(2 * round)
		f.want(node1, attest.Trusted)
		f.wantReactions("after the reboot", "node-1 Failure Lifting", "node-2 Failure Waiting")
		f.act(1)
		f.wantReactions("after lifting", "node-2 Failure Due")
		if err := f.v.Remove(t.Context(), "node-2"); err != nil {
			t.Fatal(err)
		}
		f.wantReactions("after the removal of a node that nobody touched")
		f.end()
	})
}

// What is done to a node that is removed, or that nobody assigns any longer, is undone.
func TestReactionsOutliveTheNode(t *testing.T) {
	for name, leave := range map[string]func(f *fleet) error{
		"removed": func(f *fleet) error { return f.v.Remove(f.t.Context(), node1) },
		"unassigned": func(f *fleet) error {
			return f.v.Update(f.t.Context(), node1, Update{Assignment: &api.Assignment{}, ByOwner: true})
		},
		"observed": func(f *fleet) error {
			a := enforcing()
			a.Mode = api.Observe
			return f.v.Update(f.t.Context(), node1, Update{Assignment: &a, ByOwner: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				b := f.enrol(node1, "base")
				f.on(func() { b.Run("/usr/bin/evil", "") })
				sleep(round)
				f.wantReactions("before the assignment")
				f.assign(node1, enforcing())
				f.wantReactions("the verdict was there already", "node-1 Failure Due")
				f.act(1)
				if err := leave(f); err != nil {
					t.Fatal(err)
				}
				f.wantReactions("then", "node-1 Failure Lifting")
				f.act(1)
				f.wantReactions("in the end")
				f.end()
			})
		})
	}
}

// Only a failure that a quote proves, under Enforce, makes a row. Each of these is one step away from it.
func TestWhatIsNoReaction(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(a *api.Assignment)
		fault   func(f *fleet, b *boxtest.Box)
		verdict attest.Verdict
	}{
		"in Observe":                   {change: func(a *api.Assignment) { a.Mode = api.Observe }},
		"without a mode":               {change: func(a *api.Assignment) { a.Mode = "" }},
		"without an owner":             {change: func(a *api.Assignment) { a.Owner = "" }},
		"without reactions":            {change: func(a *api.Assignment) { a.Reactions = nil }},
		"of the class Unauthenticated": {fault: func(f *fleet, _ *boxtest.Box) { f.faults[string(node1)] = boxtest.Faults{"stale-nonce": ""} }},
		"that is silence":              {fault: func(f *fleet, _ *boxtest.Box) { f.silent[string(node1)] = errors.New("no route") }, verdict: attest.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				b, a := f.enrol(node1, "base"), enforcing()
				a.WhenSilent = nil
				if tt.change != nil {
					tt.change(&a)
				}
				f.assign(node1, a)
				if tt.fault == nil {
					tt.fault = func(_ *fleet, b *boxtest.Box) { b.Run("/usr/bin/evil", "") }
				}
				if tt.verdict == "" {
					tt.verdict = attest.Failed
				}
				sleep(round)
				f.on(func() { tt.fault(f, b) })
				sleep(5 * time.Minute)
				f.want(node1, tt.verdict)
				f.wantReactions(name)
				// Without that one difference there is a row.
				f.on(func() {
					delete(f.faults, string(node1))
					delete(f.silent, string(node1))
					b.Run("/usr/bin/evil", "")
				})
				f.assign(node1, enforcing())
				sleep(2 * round)
				f.wantReactions("without the difference", "node-1 Failure Due")
				f.end()
			})
		})
	}
}

// An operator that claims when the store's verdict has moved on is refused, even where the row says otherwise.
func TestClaimsRestOnTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		f.assign(node1, enforcing())
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(round)
		good := f.store.copy()
		n, err := f.store.Node(t.Context(), node1)
		if err != nil {
			t.Fatal(err)
		}
		n.State.QuoteBacked = false
		before := f.store.rows()
		if _, err := f.store.Commit(t.Context(), Commit{Node: n, Expect: n.Version}); err != nil {
			t.Fatal(err)
		}
		f.store.restore(before) // a row that nobody settled
		if _, err := f.v.ClaimReaction(t.Context(), 1, operatorName); !errors.Is(err, reaction.ErrRefused) || !strings.Contains(err.Error(), "no longer follows") {
			t.Errorf("claim: %v", err)
		}
		f.end()
		f.store = good
		f.start()
		if _, err := f.v.ClaimReaction(t.Context(), 1, operatorName); err != nil {
			t.Errorf("with the verdict: %v", err)
		}
		f.end()
	})
}

func TestSuspensionSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		f.assign(node1, enforcing())
		if err := f.v.Suspend(t.Context(), api.Suspension{Suspended: true, By: "eve", Reason: "maintenance"}); err != nil {
			t.Fatal(err)
		}
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(round)
		f.end()
		f.start()
		sleep(round)
		f.wantReactions("while suspended", "node-1 Failure Waiting")
		s, err := f.v.Suspension(t.Context())
		if err != nil || !s.Suspended || s.By != "eve" || s.Reason != "maintenance" || s.At.IsZero() {
			t.Errorf("suspension %+v, %v", s, err)
		}
		if _, err := f.v.ClaimReaction(t.Context(), 1, operatorName); !errors.Is(err, reaction.ErrRefused) {
			t.Errorf("claim while suspended: %v", err)
		}
		if err := f.v.Suspend(t.Context(), api.Suspension{By: "eve"}); err != nil {
			t.Fatal(err)
		}
		f.wantReactions("when resumed", "node-1 Failure Due")
		f.act(1)
		f.end()
	})
}

// Silence brings the milder reactions after its time, never while more than a fifth of the fleet is silent, and is over with an answer.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		ids := []attest.AgentID{"node-1", "node-2", "node-3", "node-4", "node-5", "node-6"}
		for _, id := range ids {
			f.enrol(id, "base")
			a := enforcing()
			a.Budget = 6
			f.assign(id, a)
		}
		sleep(round)
		quiet := func(id attest.AgentID) { f.on(func() { f.silent[string(id)] = errors.New("no route") }) }
		speak := func(id attest.AgentID) { f.on(func() { delete(f.silent, string(id)) }) }
		quiet("node-1")
		sleep(9 * time.Minute)
		f.want("node-1", attest.Stale)
		f.wantReactions("before its time")
		sleep(2 * time.Minute)
		f.wantReactions("one of six", "node-1 Silence Due")
		rows, err := f.v.Reactions(t.Context(), reaction.Query{ID: 1})
		if err != nil || !slices.Equal(rows[0].Kinds, []api.ReactionKind{api.ReactLabel}) {
			t.Errorf("row %+v, %v", rows, err)
		}
		quiet("node-2")
		sleep(3 * time.Minute)
		f.wantReactions("two of six: what nobody touched is taken back")
		sleep(20 * time.Minute)
		f.wantReactions("two of six, for long")
		speak("node-2")
		sleep(2 * round)
		f.wantReactions("one of six again", "node-1 Silence Due")
		f.act(2)
		speak("node-1")
		sleep(2 * round)
		f.wantReactions("after an answer", "node-1 Silence Lifting")
		f.act(2)
		f.wantReactions("in the end")
		f.end()
	})
}

// The rule of the fleet holds at the claim too.
func TestSilenceIsNotClaimedWhileTheFleetIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		for _, id := range []attest.AgentID{"node-1", "node-2", "node-3", "node-4", "node-5"} {
			f.enrol(id, "base")
			f.assign(id, enforcing())
		}
		sleep(round)
		f.on(func() { f.silent["node-1"] = errors.New("no route") })
		sleep(11 * time.Minute)
		f.wantReactions("one of five", "node-1 Silence Due")
		book := f.store.rows()
		f.on(func() { f.silent["node-2"] = errors.New("no route") })
		sleep(5 * time.Minute)
		f.wantReactions("two of five")
		f.store.restore(book)
		if _, err := f.v.ClaimReaction(t.Context(), 1, operatorName); !errors.Is(err, reaction.ErrRefused) {
			t.Errorf("claim while two of five are silent: %v", err)
		}
		f.end()
	})
}

// C7: while an object assigns, nobody but the operator changes what applies.
func TestOwnerRule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		f.enrol(node1, "base")
		interval, none := time.Minute, []string{}
		for name, u := range map[string]Update{"policies": {Policies: &none}, "interval": {Interval: &interval}, "assignment": {Assignment: &api.Assignment{}}} {
			f.assign(node1, enforcing())
			if err := f.v.Update(t.Context(), node1, u); !errors.Is(err, ErrOwned) || !strings.Contains(err.Error(), "assigned by NodePolicy/workers; change that object") {
				t.Errorf("%s: %v", name, err)
			}
			if n := f.node(node1); len(n.Policies) != 1 || n.Interval != 0 || n.Assignment.Owner == "" {
				t.Errorf("%s: a refused update left %+v", name, n)
			}
			f.assign(node1, api.Assignment{})
			if err := f.v.Update(t.Context(), node1, u); err != nil {
				t.Errorf("%s, without an owner: %v", name, err)
			}
			restore, server := []string{"base"}, time.Duration(0)
			if err := f.v.Update(t.Context(), node1, Update{Policies: &restore, Interval: &server}); err != nil {
				t.Fatal(err)
			}
		}
		f.end()
	})
}

// late is a store whose transactions have to wait while something happens.
type late struct {
	ReactionStore
	meanwhile func()
}

func (l late) ChangeReactions(ctx context.Context, change func(ReactionBook) error) error {
	l.meanwhile()
	return l.ReactionStore.ChangeReactions(ctx, change)
}

// A silent node that fails while silence is looked at keeps the reaction to its failure: nobody would decide it again.
func TestLookForSilenceLeavesFailuresAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		for _, id := range []attest.AgentID{"node-2", "node-3", "node-4", "node-5"} {
			f.enrol(id, "base")
		}
		f.assign(node1, enforcing())
		f.on(func() { f.silent[string(node1)] = errors.New("no route") })
		sleep(12 * time.Minute)
		f.wantReactions("while it is silent", "node-1 Silence Due")
		looker := &Verifier{cfg: f.v.cfg, workers: f.v.workers}
		looker.cfg.Reactions = late{f.store, func() {
			f.on(func() { b.Run("/usr/bin/evil", ""); delete(f.silent, string(node1)) })
			sleep(round)
			f.on(func() { f.silent[string(node1)] = errors.New("no route") })
		}}
		if err := looker.reactToSilence(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.want(node1, attest.Failed)
		f.wantReactions("after it failed", "node-1 Failure Due")
		f.end()
	})
}
