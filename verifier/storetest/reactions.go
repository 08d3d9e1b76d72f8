package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier"
)

func reactionContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"AreDecidedWithTheCommit":        reactionsAreDecided,
		"AreNotDecidedByALostCommit":     reactionsOfLostCommits,
		"OutliveTheirNode":               reactionsOutliveNodes,
		"AreTakenBackOnAnError":          reactionsAreAtomic,
		"AreSelected":                    reactionsAreSelected,
		"HaveOneClaimant":                reactionsHaveOneClaimant,
		"KeepTheBudgetAmongWriters":      reactionsKeepTheBudget,
		"SeeNodesAndBindings":            reactionsSeeNodes,
		"AreSuspendedUntilToldOtherwise": suspensionIsKept,
	}
}

func wantFor(owner string, budget int) *reaction.Want {
	return &reaction.Want{Cause: api.CauseFailure, Kinds: []api.ReactionKind{api.ReactTaint, api.ReactNotify}, Owner: owner, Budget: budget, Seq: 7}
}

// rows are those that a query selects.
func rows(t *testing.T, s Stores, q reaction.Query) (list []reaction.Row) {
	t.Helper()
	err := s.Reactions.ViewReactions(t.Context(), func(b verifier.ReactionBook) (err error) {
		list, err = b.Rows(q)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// standing is the rows of a query as "ID NODE STATE".
func standing(t *testing.T, s Stores, q reaction.Query) []string {
	t.Helper()
	var list []string
	for _, r := range rows(t, s, q) {
		list = append(list, fmt.Sprintf("%d %s %s", r.ID, r.Node, r.State))
	}
	return list
}

// claim claims and reports a row done.
func claim(s Stores, id uint64, name string) error {
	now := start.Add(time.Hour)
	any := func(attest.AgentID) (*reaction.Want, error) { return wantFor("p", 1), nil }
	return s.Reactions.ChangeReactions(context.Background(), func(b verifier.ReactionBook) error {
		_, err := reaction.Claim(b, reaction.By{ID: id, Name: name, Now: now}, any)
		return err
	})
}

func reactionsAreDecided(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	n = commit(t, s, verifier.Commit{Node: n, Reaction: wantFor("p", 1)})
	other := insert(t, s, node("node-2"))
	commit(t, s, verifier.Commit{Node: other, Reaction: wantFor("p", 1)})
	same(t, "after two failures", []string{"1 node-1 Due", "2 node-2 Waiting"}, standing(t, s, reaction.Query{}))
	row := rows(t, s, reaction.Query{ID: 1})[0]
	if row.Opened.IsZero() || row.Seq != 7 || row.Owner != "p" || !slices.Equal(row.Kinds, wantFor("p", 1).Kinds) || row.Budget != 1 {
		t.Errorf("row %+v", row)
	}
	commit(t, s, verifier.Commit{Node: n})
	same(t, "when trust returned", []string{"1 node-1 Dropped", "2 node-2 Due"}, standing(t, s, reaction.Query{}))
}

func reactionsOfLostCommits(t *testing.T, s Stores) {
	first := insert(t, s, node("node-1"))
	commit(t, s, verifier.Commit{Node: first})
	if _, err := s.Nodes.Commit(t.Context(), verifier.Commit{Node: first, Expect: first.Version, Reaction: wantFor("p", 1)}); !errors.Is(err, verifier.ErrConflict) {
		t.Fatalf("commit at an old version: %v", err)
	}
	same(t, "reactions", []string(nil), standing(t, s, reaction.Query{}))
}

func reactionsOutliveNodes(t *testing.T, s Stores) {
	n := commit(t, s, verifier.Commit{Node: node("node-1"), Reaction: wantFor("p", 2)})
	m := commit(t, s, verifier.Commit{Node: node("node-2"), Reaction: wantFor("p", 2)})
	if err := claim(s, 1, "op"); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []verifier.Node{n, m} {
		if err := s.Nodes.RemoveNode(t.Context(), gone.ID, gone.Version); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "after the removal", []string{"1 node-1 Lifting", "2 node-2 Dropped"}, standing(t, s, reaction.Query{}))
	commit(t, s, verifier.Commit{Node: node("node-1"), Reaction: wantFor("p", 2)})
	same(t, "one open row for a node", []string{"1 node-1 Lifting"}, standing(t, s, reaction.Query{States: reaction.Open()}))
}

func reactionsAreAtomic(t *testing.T, s Stores) {
	broken := errors.New("broken")
	err := s.Reactions.ChangeReactions(t.Context(), func(b verifier.ReactionBook) error {
		if err := reaction.Settle(b, "node-1", wantFor("p", 1), start); err != nil {
			return err
		}
		if err := b.Suspend(api.Suspension{Suspended: true}); err != nil {
			return err
		}
		if list, err := b.Rows(reaction.Query{}); err != nil || len(list) != 1 {
			t.Errorf("within the transaction: %v, %v", list, err)
		}
		return broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	same(t, "reactions", []string(nil), standing(t, s, reaction.Query{}))
	err = s.Reactions.ViewReactions(t.Context(), func(b verifier.ReactionBook) error {
		suspension, err := b.Suspension()
		same(t, "suspension", api.Suspension{}, suspension)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func reactionsAreSelected(t *testing.T, s Stores) {
	err := s.Reactions.ChangeReactions(t.Context(), func(b verifier.ReactionBook) error {
		for i, r := range []api.Reaction{
			{Node: "a", Owner: "p", Cause: api.CauseFailure, State: api.ReactionDue},
			{Node: "b", Owner: "p", Cause: api.CauseSilence, State: api.ReactionWaiting},
			{Node: "c", Owner: "q", Cause: api.CauseFailure, State: api.ReactionLifted},
			{Node: "a", Owner: "q", Cause: api.CauseFailure, State: api.ReactionDropped},
		} {
			put, err := b.Put(reaction.Row{Reaction: r})
			if err != nil || put.ID != uint64(i+1) {
				t.Errorf("row %d got the id %d, %v", i+1, put.ID, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		q    reaction.Query
		want []string
	}{
		"all":           {reaction.Query{}, []string{"1 a Due", "2 b Waiting", "3 c Lifted", "4 a Dropped"}},
		"by id":         {reaction.Query{ID: 3}, []string{"3 c Lifted"}},
		"by no id":      {reaction.Query{ID: 1 << 63}, nil},
		"by node":       {reaction.Query{Node: "a"}, []string{"1 a Due", "4 a Dropped"}},
		"open of node":  {reaction.Query{Node: "a", States: reaction.Open()}, []string{"1 a Due"}},
		"by owner":      {reaction.Query{Owner: "q"}, []string{"3 c Lifted", "4 a Dropped"}},
		"by cause":      {reaction.Query{Cause: api.CauseSilence}, []string{"2 b Waiting"}},
		"by states":     {reaction.Query{States: []api.ReactionState{api.ReactionLifted, api.ReactionDue}}, []string{"1 a Due", "3 c Lifted"}},
		"by no states":  {reaction.Query{States: []api.ReactionState{}}, nil},
		"a page":        {reaction.Query{Limit: 2}, []string{"1 a Due", "2 b Waiting"}},
		"the next page": {reaction.Query{Limit: 2, After: 2}, []string{"3 c Lifted", "4 a Dropped"}},
		"beyond":        {reaction.Query{After: 1 << 63}, nil},
	} {
		same(t, name, tt.want, standing(t, s, tt.q))
	}
	err = s.Reactions.ChangeReactions(t.Context(), func(b verifier.ReactionBook) error {
		_, err := b.Put(reaction.Row{Reaction: api.Reaction{Node: "a", Owner: "p", State: api.ReactionWaiting}})
		return err
	})
	if err == nil {
		t.Error("a second open row for a node was taken")
	}
}

func reactionsHaveOneClaimant(t *testing.T, s Stores) {
	commit(t, s, verifier.Commit{Node: node("node-1"), Reaction: wantFor("p", 1)})
	const operators = 8
	errs := make([]error, operators)
	var wait sync.WaitGroup
	for i := range operators {
		wait.Go(func() { errs[i] = claim(s, 1, fmt.Sprintf("op-%d", i)) })
	}
	wait.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, reaction.ErrRefused):
			t.Errorf("the loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d operators won", won, operators)
	}
}

// Verdicts of many nodes are committed at once: never are more rows than the budget allows anything but waiting.
func reactionsKeepTheBudget(t *testing.T, s Stores) {
	const fleet, budget = 24, 3
	var wait sync.WaitGroup
	for i := range fleet {
		wait.Go(func() {
			n := node(attest.AgentID(fmt.Sprintf("node-%02d", i)))
			for range 4 { // fails, passes, fails, passes or stays failed
				var want *reaction.Want
				if n.Version%2 == 0 || i%3 == 0 {
					want = wantFor("p", budget)
				}
				version, err := s.Nodes.Commit(context.Background(), verifier.Commit{Node: n, Expect: n.Version, Reaction: want})
				if err != nil {
					t.Error(err)
					return
				}
				n.Version = version
				_ = claim(s, uint64(i)+1, "op") // whichever that is
			}
		})
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for range 50 {
			if taken := standing(t, s, reaction.Query{States: reaction.Taken()}); len(taken) > budget {
				t.Errorf("beyond the budget of %d: %v", budget, taken)
			}
		}
	}()
	wait.Wait()
	<-watched
	if taken := standing(t, s, reaction.Query{States: reaction.Taken()}); len(taken) != budget {
		t.Errorf("in the end %v, want %d", taken, budget)
	}
}

func reactionsSeeNodes(t *testing.T, s Stores) {
	want := node("node-1")
	want.Assignment = api.Assignment{Owner: "NodePolicy/workers", Mode: api.Enforce, Budget: 2, EndorsedBy: []attest.Digest{digestOf("root")}}
	want = insert(t, s, want)
	bound := api.KubernetesNode{Name: "worker-1", UID: "uid-1"}
	if err := s.Bindings.Bind(t.Context(), verifier.Binding{Agent: "node-1", Node: bound, At: start}); err != nil {
		t.Fatal(err)
	}
	err := s.Reactions.ChangeReactions(t.Context(), func(b verifier.ReactionBook) error {
		got, err := b.Node("node-1")
		if err != nil {
			return err
		}
		same(t, "node", want, got)
		if _, err := b.Node("nobody"); !errors.Is(err, verifier.ErrNotFound) {
			t.Errorf("nobody: %v", err)
		}
		identity, err := b.Identity("node-1")
		if err != nil {
			return err
		}
		same(t, "identity", &bound, identity)
		none, err := b.Identity("nobody")
		same(t, "identity of nobody", (*api.KubernetesNode)(nil), none)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func suspensionIsKept(t *testing.T, s Stores) {
	commit(t, s, verifier.Commit{Node: node("node-1"), Reaction: wantFor("p", 1)})
	for _, want := range []api.Suspension{{Suspended: true, By: "eve", Reason: "why", At: start}, {By: "adam", At: start.Add(time.Hour)}} {
		if err := s.Reactions.ChangeReactions(t.Context(), func(b verifier.ReactionBook) error { return reaction.Suspend(b, want) }); err != nil {
			t.Fatal(err)
		}
		err := s.Reactions.ViewReactions(t.Context(), func(b verifier.ReactionBook) error {
			got, err := b.Suspension()
			same(t, "suspension", want, got)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		state := api.ReactionDue
		if want.Suspended {
			state = api.ReactionWaiting
		}
		same(t, "reaction", []string{"1 node-1 " + string(state)}, standing(t, s, reaction.Query{}))
	}
}
