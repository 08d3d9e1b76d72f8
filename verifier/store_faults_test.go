package verifier

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// A transition that the store refuses did not happen: nobody is told, and the next round tries again.
func TestTransitionThatIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		watching := f.watch()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		f.store.fail(func(Commit) error { return errDown }, nil)
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(2 * round)
		if got := watching.verdicts(); !slices.Equal(got, []attest.Verdict{attest.Pending, attest.Trusted}) {
			t.Errorf("told %v while the store was away", got)
		}
		f.store.fail(nil, nil)
		sleep(round)
		f.want(node1, attest.Failed)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Failed)
		if got := watching.verdicts(); !slices.Equal(got, f.verdicts(node1)) {
			t.Errorf("told %v, stored %v", got, f.verdicts(node1))
		}
		f.end()
	})
}

// A write that happened and was reported as failed: the transition is there once, and told once.
func TestTransitionThatIsStoredAndReportedAsFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		watching := f.watch()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		f.store.fail(nil, func(Commit) error { return errDown })
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(round)
		f.store.fail(nil, nil)
		sleep(2 * round)
		f.want(node1, attest.Failed)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Failed)
		if got := watching.verdicts(); !slices.Equal(got, f.verdicts(node1)) {
			t.Errorf("told %v, stored %v", got, f.verdicts(node1))
		}
		f.end()
	})
}

// While the store is away rounds go on; on its return what they proved is written, without a hole.
func TestStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		f.store.fail(func(Commit) error { return errDown }, nil)
		for range 10 {
			f.on(func() { b.Run("/usr/bin/a", "") })
			sleep(30 * time.Second)
		}
		n := f.want(node1, attest.Trusted)
		if n.State.IMA.Position < 12 {
			t.Errorf("at entry %d after 10 rounds", n.State.IMA.Position)
		}
		f.store.fail(nil, nil)
		sleep(round)
		list, err := f.store.List(t.Context(), node1, n.State.Boot)
		if err != nil || list.Count < 12 {
			t.Errorf("%d entries stored, %v", list.Count, err)
		}
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
		f.end()
	})
}

// Another server wrote the node's row: the loser drops its round, reads again, and tells what it missed.
func TestLoserOfAConflictReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		watching := f.watch()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		f.on(func() { b.Run("/usr/bin/true", "") })
		sleep(round) // accepted and not written yet: the loser drops that too
		other, err := f.store.Node(t.Context(), node1)
		if err != nil {
			t.Fatal(err)
		}
		if have := f.node(node1).State.IMA.Position; other.State.IMA.Position >= have {
			t.Fatalf("%d of %d entries are stored", other.State.IMA.Position, have)
		}
		row := machine.Transition{Seq: other.State.Seq + 1, Node: node1, At: time.Now(), From: attest.Trusted, To: attest.Paused, Cause: "pause"}
		other.State.Seq, other.State.Paused, other.State.Shown = row.Seq, true, attest.Paused
		if _, err := f.store.Commit(t.Context(), Commit{Node: other, Expect: other.Version, Transition: &row}); err != nil {
			t.Fatal(err)
		}
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(round)
		f.want(node1, attest.Paused)
		want := []attest.Verdict{attest.Pending, attest.Trusted, attest.Paused}
		f.wantVerdicts(node1, want...)
		if got := watching.verdicts(); !slices.Equal(got, want) {
			t.Errorf("told %v, want %v", got, want)
		}
		// What the dropped round saw is not lost: the next one sees it too.
		if err := f.v.Do(t.Context(), node1, machine.Resume); err != nil {
			t.Fatal(err)
		}
		sleep(round)
		f.want(node1, attest.Failed)
		f.end()
	})
}

// An act that cannot be stored did not happen, and whoever asked is told.
func TestActThatIsNotStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, wide := boxtest.Document(t, "base"), boxtest.Document(t, "wide", "/usr/bin/b")
		f := newFleet(t, base, wide)
		f.start()
		b := f.enrol(node1, "base")
		f.on(func() { b.Run("/usr/bin/b", "") })
		sleep(time.Second)
		f.want(node1, attest.Failed)
		names := []string{"wide"}
		update := Update{Policies: &names}
		f.store.fail(func(Commit) error { return errDown }, nil)
		if err := f.v.Update(t.Context(), node1, update); !errors.Is(err, errDown) {
			t.Errorf("update: %v, want that the database is away", err)
		}
		if err := f.v.Do(t.Context(), node1, machine.Pause); !errors.Is(err, errDown) {
			t.Errorf("pause: %v", err)
		}
		f.store.fail(nil, nil)
		n := f.want(node1, attest.Failed)
		if n.State.Paused || len(n.Policies) != 1 || n.Policies[0] != base.Ref() {
			t.Errorf("paused %t, policies %v", n.State.Paused, n.Policies)
		}
		// Only the first write fails: the act must not be half done.
		once := true
		f.store.fail(func(c Commit) error {
			if c.Transition != nil && once {
				once = false
				return errDown
			}
			return nil
		}, nil)
		if err := f.v.Update(t.Context(), node1, update); !errors.Is(err, errDown) {
			t.Errorf("update: %v", err)
		}
		if n := f.node(node1); n.Policies[0] != base.Ref() {
			t.Errorf("policies %v", n.Policies)
		}
		if err := f.v.Update(t.Context(), node1, update); err != nil {
			t.Fatal(err)
		}
		n = f.want(node1, attest.Trusted)
		if len(n.State.Policies) != 1 || n.State.Policies[0] != wide.Ref() {
			t.Errorf("Trusted by %v", n.State.Policies)
		}
		f.end()
	})
}

func TestActThatLosesAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		f.enrol(node1, "base")
		sleep(time.Second)
		other, err := f.store.Node(t.Context(), node1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.store.Commit(t.Context(), Commit{Node: other, Expect: other.Version}); err != nil {
			t.Fatal(err)
		}
		if err := f.v.Do(t.Context(), node1, machine.Pause); !errors.Is(err, ErrConflict) {
			t.Errorf("pause: %v, want ErrConflict", err)
		}
		f.want(node1, attest.Trusted)
		if err := f.v.Do(t.Context(), node1, machine.Pause); err != nil {
			t.Errorf("pause again: %v", err)
		}
		f.want(node1, attest.Paused)
		f.end()
	})
}

// A node can be removed in the middle of a round, and enrolled again at once: nothing of the old round reaches the new node.
func TestRemovalDuringARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		f.enrol(node1, "base")
		sleep(time.Second)
		f.on(func() { f.during = func(Enrolment) { time.Sleep(5 * time.Second) } })
		sleep(round)
		for range 3 {
			if err := f.v.Remove(t.Context(), node1); err != nil {
				t.Fatal(err)
			}
			if _, err := f.v.Show(node1); !errors.Is(err, ErrNotFound) {
				t.Fatalf("after the removal: %v", err)
			}
			f.enrol(node1, "base")
			time.Sleep(time.Second) // into the middle of the next round
		}
		f.on(func() { f.during = nil })
		sleep(round)
		f.want(node1, attest.Trusted)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
		if err := f.v.Remove(t.Context(), "node-2"); !errors.Is(err, ErrNotFound) {
			t.Errorf("remove nobody: %v", err)
		}
		f.end()
	})
}

// Another server removed the node: its goroutine ends here too.
func TestRemovalElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		f.enrol(node1, "base")
		sleep(time.Second)
		n := f.node(node1)
		if err := f.store.RemoveNode(t.Context(), node1, n.Version); err != nil {
			t.Fatal(err)
		}
		sleep(3 * time.Minute)
		if _, err := f.v.Show(node1); !errors.Is(err, ErrNotFound) {
			t.Errorf("still here: %v", err)
		}
		f.end()
	})
}

// A node whose policies cannot be loaded is Stale in time and keeps nobody else from being judged; it goes on when they are back.
func TestNodeThatCannotBeJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := boxtest.Document(t, "base")
		f := newFleet(t, base, boxtest.Document(t, "other"))
		f.start()
		f.enrol(node1, "base")
		f.enrol("node-2", "other")
		sleep(time.Second)
		f.end()

		lost := f.store.policies[0]
		f.store.policies = f.store.policies[1:]
		f.start()
		sleep(5 * time.Minute)
		f.want(node1, attest.Stale)
		f.want("node-2", attest.Trusted)
		if err := f.store.AddPolicy(context.Background(), lost); err != nil {
			t.Fatal(err)
		}
		sleep(round)
		f.want(node1, attest.Trusted)
		f.end()
	})
}

func TestWatcherThatLagsIsCutOff(t *testing.T) {
	h := newHub()
	slow, _ := h.watch()
	quick, stop := h.watch()
	for i := range hubBuffer + 1 {
		h.send(machine.Transition{Seq: uint64(i)})
		<-quick
	}
	got := 0
	for range slow {
		got++
	}
	if got != hubBuffer {
		t.Errorf("the slow one got %d, want %d and its end", got, hubBuffer)
	}
	stop()
	stop()
	if _, open := <-quick; open {
		t.Error("stop did not end the channel")
	}
	h.close()
	if late, _ := h.watch(); late == nil {
		t.Error("no channel")
	} else if _, open := <-late; open {
		t.Error("watching after the end")
	}
}
