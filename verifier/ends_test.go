package verifier

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// slowToList is a store that lists its nodes only when it is let.
type slowToList struct {
	*MemoryStore
	let chan struct{}
}

func (s slowToList) Nodes(ctx context.Context, after attest.AgentID, limit int) ([]Node, error) {
	<-s.let
	return s.MemoryStore.Nodes(ctx, after, limit)
}

// Who is told that there is no such node forgets it. So that is said of none that is enrolled: not while the nodes are being loaded, and not once
// the process ends.
func TestEnrolledNodeIsNeverUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		f.enrol(node1, "base")
		f.end()

		let := make(chan struct{})
		v, err := New(Config{Store: slowToList{f.store, let}, Evidence: f.store, Policies: f.store, Reactions: f.store, Collector: f})
		if err != nil {
			t.Fatal(err)
		}
		want := func(when string, id attest.AgentID, want error) {
			t.Helper()
			_, shown := v.Show(id)
			for act, err := range map[string]error{"show": shown, "reattest": v.Do(t.Context(), id, machine.Reattest)} {
				if !errors.Is(err, want) {
					t.Errorf("%s: %s %s: %v, want %v", when, act, id, err, want)
				}
			}
			if running := !errors.Is(want, ErrNotRunning); v.Running() != running {
				t.Errorf("%s: it says that it runs: %t", when, !running)
			}
		}
		want("before the start", node1, ErrNotRunning)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- v.Run(ctx) }()
		synctest.Wait()
		want("while nodes are loaded", node1, ErrNotRunning)
		close(let)
		synctest.Wait()
		want("loaded", node1, nil)
		want("loaded", "node-2", ErrNotFound)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		want("after the end", node1, ErrNotRunning)
		if err := v.Remove(t.Context(), node1); !errors.Is(err, ErrNotRunning) {
			t.Errorf("remove after the end: %v", err)
		}
	})
}

// enrolMany enrols more machines than one, for what comes out one way or the other when two things are ready at once.
func (f *fleet) enrolMany(policies ...string) (ids []attest.AgentID) {
	for i := range 16 {
		ids = append(ids, attest.AgentID(fmt.Sprintf("node-%d", i)))
		f.enrol(ids[i], policies...)
	}
	return ids
}

// An act that waits for its turn when the process ends was not done, which is not the same as that there is no such node.
func TestActsAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		ids := f.enrolMany("base")
		sleep(round)
		hold := make(chan struct{})
		f.store.fail(func(Commit) error { <-hold; return nil }, nil)
		done := make(chan error, 2*len(ids))
		for _, id := range ids {
			for range 2 { // one that is being done, and one that waits
				go func() { done <- f.v.Do(t.Context(), id, machine.Reattest) }()
			}
		}
		synctest.Wait()
		f.stop()
		close(hold)
		for range cap(done) {
			if err := <-done; errors.Is(err, ErrNotFound) {
				t.Errorf("at the end: %v", err)
			}
		}
		f.end()
	})
}
