package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

func retentionContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"TakesBootsThatEndedLongAgo": retentionTakesEndedBoots,
		"LeavesTheCurrentBoot":       retentionLeavesTheCurrentBoot,
		"LeavesTheLastQuote":         retentionLeavesTheLastQuote,
		"LeavesABootThatCameBack":    retentionLeavesBootsThatCameBack,
		"TakesListsFromTheirEnd":     retentionTakesListsFromTheirEnd,
		"TakesExpiredTokens":         retentionTakesTokens,
	}
}

// live is a node in a boot with a list of three parts, a boot log, and a quote that a transition names.
func live(t *testing.T, s Stores, n verifier.Node, boot string, since time.Time) verifier.Node {
	t.Helper()
	n.State.Boot, n.State.BootSince = boot, since
	n.State.Seq++
	named, q := transition(n, n.State.Seq), storedQuote(boot, boot)
	named.Boot, named.Quote, q.Node = boot, q.Digest, n.ID
	return commit(t, s, verifier.Commit{
		Node: n, Transition: named, Quotes: []machine.StoredQuote{q}, BootLog: []byte("log of " + boot),
		Chunks: []machine.Chunk{chunk(boot, 0, "a "+boot), chunk(boot, 1, "b "+boot), chunk(boot, 2, "c "+boot)},
	})
}

// expire deletes until nothing is deleted, and returns of how many boots nothing is left.
func expire(t *testing.T, s Stores, endedBy time.Time) (boots int) {
	t.Helper()
	for range 100 {
		gone, err := s.Retention.ExpireEvidence(t.Context(), endedBy, 2)
		if err != nil {
			t.Fatal(err)
		}
		if gone == (verifier.Expired{}) {
			return boots
		}
		boots += gone.Boots
	}
	t.Fatal("there is no end of what expired")
	return 0
}

// holds checks that all the evidence of a boot of live is there, or none of it.
func holds(t *testing.T, s Stores, id attest.AgentID, boot string, want bool) {
	t.Helper()
	_, list := s.Evidence.List(t.Context(), id, boot)
	_, log := s.Evidence.BootLog(t.Context(), id, boot)
	_, q := s.Evidence.Quote(t.Context(), id, storedQuote(boot, boot).Digest)
	for what, row := range map[string]struct{ have, gone error }{"list": {list, verifier.ErrNotFound}, "boot log": {log, verifier.ErrNotFound}, "quote": {q, verifier.ErrExpired}} {
		if want && row.have != nil || !want && !errors.Is(row.have, row.gone) {
			t.Errorf("%s of %s of %s: %v; want it there: %t", what, boot, id, row.have, want)
		}
	}
}

func retentionTakesEndedBoots(t *testing.T, s Stores) {
	n, other := insert(t, s, node("node-1")), insert(t, s, node("node-2"))
	for i := range 3 {
		n = live(t, s, n, fmt.Sprintf("boot-%d", i+1), start.Add(time.Duration(i)*time.Hour))
	}
	other = live(t, s, other, "boot-1", start) // the same content, still in use
	if boots := expire(t, s, start.Add(time.Hour-1)); boots != 0 {
		t.Errorf("%d boots went before their time", boots)
	}
	holds(t, s, n.ID, "boot-1", true)
	if boots := expire(t, s, start.Add(time.Hour)); boots != 1 {
		t.Errorf("%d boots went, want the one that ended by then", boots)
	}
	for boot, want := range map[string]bool{"boot-1": false, "boot-2": true, "boot-3": true} {
		holds(t, s, n.ID, boot, want)
	}
	holds(t, s, other.ID, "boot-1", true)
	rows, err := s.Evidence.Transitions(t.Context(), n.ID, 0, 10)
	if err != nil || len(rows) != 3 || rows[0].Quote != storedQuote("boot-1", "boot-1").Digest {
		t.Errorf("history after boot-1 went: %v, %v", rows, err)
	}
	if _, err := s.Evidence.Quote(t.Context(), n.ID, digestOf("never seen")); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("a quote that no transition names: %v, want ErrNotFound", err)
	}
	commit(t, s, verifier.Commit{Node: n}) // the node goes on
}

func retentionLeavesTheCurrentBoot(t *testing.T, s Stores) {
	n := live(t, s, insert(t, s, node("node-1")), "boot-1", start)
	never := start.AddDate(100, 0, 0)
	if boots := expire(t, s, never); boots != 0 {
		t.Errorf("%d boots went", boots)
	}
	holds(t, s, n.ID, "boot-1", true)
	live(t, s, n, "boot-2", start.Add(time.Hour))
	if boots := expire(t, s, never); boots != 1 {
		t.Errorf("%d boots went after the next one began, want 1", boots)
	}
	holds(t, s, n.ID, "boot-1", false)
	holds(t, s, n.ID, "boot-2", true)
}

// Between another AK and its first accepted quote a node is in no boot, and its last accepted quote is of the boot before.
func retentionLeavesTheLastQuote(t *testing.T, s Stores) {
	n := live(t, s, insert(t, s, node("node-1")), "boot-1", start)
	n = live(t, s, n, "boot-2", start.Add(time.Hour))
	n.State.Boot = ""
	n = commit(t, s, verifier.Commit{Node: n})
	if boots := expire(t, s, start.AddDate(100, 0, 0)); boots != 1 {
		t.Errorf("%d boots went, want 1", boots)
	}
	holds(t, s, n.ID, "boot-2", true)
	n.State.Boot, n.State.BootSince = "boot-3", start.Add(2*time.Hour)
	n = commit(t, s, verifier.Commit{Node: n}) // without a quote of its own yet
	if boots := expire(t, s, start.AddDate(100, 0, 0)); boots != 0 {
		t.Errorf("%d boots went, and with them the last accepted quote", boots)
	}
	holds(t, s, n.ID, "boot-2", true)
	live(t, s, n, "boot-3", start.Add(2*time.Hour))
	if boots := expire(t, s, start.Add(2*time.Hour)); boots != 1 {
		t.Errorf("%d boots went, want 1", boots)
	}
	holds(t, s, n.ID, "boot-2", false)
}

// A machine that is set back comes into a boot that was thought to have ended.
func retentionLeavesBootsThatCameBack(t *testing.T, s Stores) {
	n := live(t, s, insert(t, s, node("node-1")), "boot-1", start)
	n = live(t, s, n, "boot-2", start.Add(time.Hour))
	n.State.Boot, n.State.BootSince = "boot-1", start.Add(2*time.Hour)
	n = commit(t, s, verifier.Commit{Node: n})
	n = live(t, s, n, "boot-3", start.Add(3*time.Hour))
	if boots := expire(t, s, start.Add(2*time.Hour)); boots != 1 {
		t.Errorf("%d boots went, want 1", boots)
	}
	holds(t, s, n.ID, "boot-1", true) // it ended an hour later than at first
	holds(t, s, n.ID, "boot-2", false)
}

// A clean-up that is cut off leaves no list with a hole, and no quote without its list.
func retentionTakesListsFromTheirEnd(t *testing.T, s Stores) {
	n := live(t, s, insert(t, s, node("node-1")), "boot-1", start)
	whole, err := s.Evidence.List(t.Context(), n.ID, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	n = live(t, s, n, "boot-2", start.Add(time.Hour))
	for range 100 {
		gone, err := s.Retention.ExpireEvidence(t.Context(), start.Add(time.Hour), 1)
		if err != nil {
			t.Fatal(err)
		}
		if gone == (verifier.Expired{}) {
			holds(t, s, n.ID, "boot-1", false)
			return
		}
		list, err := s.Evidence.List(t.Context(), n.ID, "boot-1")
		if err != nil && !errors.Is(err, verifier.ErrNotFound) || !bytes.HasPrefix(whole.ASCII, list.ASCII) {
			t.Fatalf("what is left is no list: %q, %v", list.ASCII, err)
		}
		if _, err := s.Evidence.Quote(t.Context(), n.ID, storedQuote("boot-1", "boot-1").Digest); !errors.Is(err, verifier.ErrExpired) {
			t.Fatalf("a quote whose list is going: %v", err)
		}
	}
	t.Fatal("there is no end of what expired")
}

func retentionTakesTokens(t *testing.T, s Stores) {
	for i, id := range []string{"a", "b", "c"} {
		token := verifier.Token{ID: id, Created: start, Expires: start.Add(time.Duration(i+1) * time.Hour), SecretDigest: digestOf(id)}
		if err := s.Tokens.AddToken(t.Context(), token); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		by    time.Time
		limit int
		want  int
	}{{start.Add(time.Hour - 1), 10, 0}, {start.Add(2 * time.Hour), 1, 1}, {start.Add(2 * time.Hour), 10, 1}, {start.Add(2 * time.Hour), 10, 0}} {
		if have, err := s.Retention.ExpireTokens(t.Context(), row.by, row.limit); err != nil || have != row.want {
			t.Errorf("%d tokens expired by %v, %v; want %d", have, row.by, err, row.want)
		}
	}
	left, err := s.Tokens.Tokens(t.Context())
	if err != nil || len(left) != 1 || left[0].ID != "c" {
		t.Errorf("left are %v, %v", left, err)
	}
}
