package storetest

import (
	"errors"
	"sync"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

func nodeContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"AreReadAsTheyWereWritten":     nodesAreReadAsWritten,
		"AreWrittenByCompareAndSwap":   nodesAreSwapped,
		"HaveOneWinnerAmongWriters":    nodesHaveOneWinner,
		"CannotBeInsertedTwice":        nodesAreInsertedOnce,
		"ArePagedInTheOrderOfIDs":      nodesArePaged,
		"ThatAreNotThere":              nodesThatAreNotThere,
		"KeepTheirPoliciesInOrder":     nodesKeepPolicies,
		"CannotHaveUnknownPolicies":    nodesHaveKnownPolicies,
		"AreNotRevivedByAnOldWriter":   nodesAreNotRevived,
		"AreRemovedByCompareAndDelete": nodesAreRemovedAtTheirVersion,
	}
}

func nodesAreReadAsWritten(t *testing.T, s Stores) {
	want := insert(t, s, node("node-1"))
	got, err := s.Nodes.Node(t.Context(), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "node", want, got)

	want.State.Verdict, want.Interval, want.Enrolment.Port = attest.Trusted, 0, 65535
	want = commit(t, s, verifier.Commit{Node: want})
	if got, err = s.Nodes.Node(t.Context(), "node-1"); err != nil {
		t.Fatal(err)
	}
	same(t, "node after a second write", want, got)
}

func nodesAreSwapped(t *testing.T, s Stores) {
	first := insert(t, s, node("node-1"))
	second := commit(t, s, verifier.Commit{Node: first})
	for _, expect := range []uint64{first.Version, second.Version + 1} {
		stale := second
		stale.State.Accepted = 1000
		if _, err := s.Nodes.Commit(t.Context(), verifier.Commit{Node: stale, Expect: expect}); !errors.Is(err, verifier.ErrConflict) {
			t.Errorf("commit at version %d of %d: %v, want ErrConflict", expect, second.Version, err)
		}
	}
	got, err := s.Nodes.Node(t.Context(), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "node after lost writes", second, got)
}

func nodesHaveOneWinner(t *testing.T, s Stores) {
	const writers = 8
	first := insert(t, s, node("node-1"))
	errs := make([]error, writers)
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			n := first
			n.State.Seq = 2
			next := machine.Transition{Seq: 2, Node: n.ID, At: start, To: attest.Trusted}
			_, errs[i] = s.Nodes.Commit(t.Context(), verifier.Commit{Node: n, Expect: first.Version, Transition: &next})
		})
	}
	wait.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, verifier.ErrConflict):
			t.Errorf("the loser got %v, want ErrConflict", err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers won", won, writers)
	}
	rows, err := s.Evidence.Transitions(t.Context(), first.ID, 0, 10)
	if err != nil || len(rows) != 1 {
		t.Errorf("%d transitions, %v; want the winner's one", len(rows), err)
	}
}

func nodesAreInsertedOnce(t *testing.T, s Stores) {
	first := insert(t, s, node("node-1"))
	other := node("node-1")
	other.Enrolment.AK = []byte("another")
	if _, err := s.Nodes.Commit(t.Context(), verifier.Commit{Node: other}); !errors.Is(err, verifier.ErrExists) {
		t.Fatalf("second insert: %v, want ErrExists", err)
	}
	got, err := s.Nodes.Node(t.Context(), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "node after a second insert", first, got)
}

func nodesArePaged(t *testing.T, s Stores) {
	// Ids are compared as bytes: capitals come before small letters, "-" before digits.
	order := []attest.AgentID{"A-1", "A0", "B", "a", "a.b", "b"}
	for _, i := range []int{3, 0, 5, 2, 1, 4} {
		insert(t, s, node(order[i]))
	}
	var got []attest.AgentID
	after := attest.AgentID("")
	for {
		page, err := s.Nodes.Nodes(t.Context(), after, 4)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range page {
			got = append(got, n.ID)
			after = n.ID
			if n.Version != 1 || n.State.Accepted != 7 {
				t.Errorf("node %q of a page is not whole: version %d, %d accepted", n.ID, n.Version, n.State.Accepted)
			}
		}
		if len(page) < 4 {
			break
		}
	}
	same(t, "ids in pages of 4", order, got)
}

func nodesThatAreNotThere(t *testing.T, s Stores) {
	if _, err := s.Nodes.Node(t.Context(), "nobody"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("read: %v, want ErrNotFound", err)
	}
	if err := s.Nodes.RemoveNode(t.Context(), "nobody", 1); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("remove: %v, want ErrNotFound", err)
	}
	if page, err := s.Nodes.Nodes(t.Context(), "", 10); err != nil || len(page) != 0 {
		t.Errorf("list: %v, %v", page, err)
	}
}

func nodesKeepPolicies(t *testing.T, s Stores) {
	refs := addPolicies(t, s, "a", "b", "c")
	n := node("node-1")
	n.Policies = []attest.PolicyRef{refs[2], refs[0]}
	n = insert(t, s, n)
	wantPolicies := func(what string, want ...attest.PolicyRef) {
		t.Helper()
		got, err := s.Nodes.Node(t.Context(), n.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(t, what, want, got.Policies)
		page, err := s.Nodes.Nodes(t.Context(), "", 10)
		if err != nil || len(page) != 1 {
			t.Fatalf("list: %d nodes, %v", len(page), err)
		}
		same(t, what+" in a list", want, page[0].Policies)
	}
	wantPolicies("first assignment", refs[2], refs[0])
	n.Policies = []attest.PolicyRef{refs[0], refs[2], refs[1]}
	n = commit(t, s, verifier.Commit{Node: n})
	wantPolicies("more, in another order", refs[0], refs[2], refs[1])
	n.Policies = nil
	commit(t, s, verifier.Commit{Node: n})
	wantPolicies("none")
}

func nodesHaveKnownPolicies(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	n.Policies = []attest.PolicyRef{{Kind: "Runtime", Name: "gone", Digest: digestOf("gone")}}
	if err := refused(t, s, verifier.Commit{Node: n}, "a policy that is not stored"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("unknown policy: %v, want ErrNotFound", err)
	}
}

// A writer that still holds a node which was removed, or removed and enrolled again, must not bring it back.
func nodesAreNotRevived(t *testing.T, s Stores) {
	old := insert(t, s, node("node-1"))
	if err := s.Nodes.RemoveNode(t.Context(), old.ID, old.Version); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Nodes.Commit(t.Context(), verifier.Commit{Node: old, Expect: old.Version}); !errors.Is(err, verifier.ErrConflict) {
		t.Errorf("commit to a removed node: %v, want ErrConflict", err)
	}
	if _, err := s.Nodes.Node(t.Context(), old.ID); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("the removed node is back: %v", err)
	}
}

func nodesAreRemovedAtTheirVersion(t *testing.T, s Stores) {
	first := insert(t, s, node("node-1"))
	second := commit(t, s, verifier.Commit{Node: first})
	if err := s.Nodes.RemoveNode(t.Context(), "node-1", first.Version); !errors.Is(err, verifier.ErrConflict) {
		t.Fatalf("remove at an old version: %v, want ErrConflict", err)
	}
	if _, err := s.Nodes.Node(t.Context(), "node-1"); err != nil {
		t.Fatalf("after a lost removal: %v", err)
	}
	if err := s.Nodes.RemoveNode(t.Context(), "node-1", second.Version); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Nodes.Node(t.Context(), "node-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("after the removal: %v, want ErrNotFound", err)
	}
}
