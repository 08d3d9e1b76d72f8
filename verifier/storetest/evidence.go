package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

func transitionContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"AreReadAsTheyWereWritten": transitionsAreReadAsWritten,
		"AreNeverSaidAnew":         transitionsAreAppendOnly,
		"ArePagedOldestFirst":      transitionsArePaged,
	}
}

func transition(n verifier.Node, seq uint64) *machine.Transition {
	entry := uint64(41)
	f := attest.Fail(attest.FileDigestMismatch, "changed")
	f.Path, f.Seen, f.Allowed, f.Policy, f.Entry = "/usr/bin/\x1b[2Jx", "sha256:00", []string{"sha256:11"}, "base", &entry
	return &machine.Transition{
		Seq: seq, Node: n.ID, At: start.Add(time.Duration(seq)), From: attest.Trusted, To: attest.Failed, Boot: "boot-1",
		Policies: []attest.PolicyRef{{Kind: "Runtime", Name: "base", Digest: digestOf("base")}},
		Failures: []attest.Failure{f}, Cause: "round",
	}
}

func transitionsAreReadAsWritten(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	bare := machine.Transition{Seq: 2, Node: n.ID, At: start, To: attest.Pending, Cause: "enrol"}
	full := transition(n, 1)
	n = commit(t, s, verifier.Commit{Node: n, Transition: full})
	commit(t, s, verifier.Commit{Node: n, Transition: &bare})
	got, err := s.Evidence.Transitions(t.Context(), n.ID, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "transitions", []machine.Transition{*full, bare}, got)
}

func transitionsAreAppendOnly(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	first := transition(n, 1)
	n = commit(t, s, verifier.Commit{Node: n, Transition: first})
	again := transition(n, 1)
	again.To = attest.Trusted
	changed := n
	changed.State.Accepted = 1000
	if err := refused(t, s, verifier.Commit{Node: changed, Transition: again}, "a number that is taken"); !errors.Is(err, verifier.ErrExists) {
		t.Errorf("a number that is taken: %v, want ErrExists", err)
	}
	got, err := s.Evidence.Transitions(t.Context(), n.ID, 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "transitions", []machine.Transition{*first}, got)
}

func transitionsArePaged(t *testing.T, s Stores) {
	n, other := insert(t, s, node("node-1")), insert(t, s, node("node-2"))
	for seq := range uint64(5) {
		n = commit(t, s, verifier.Commit{Node: n, Transition: transition(n, seq+1)})
		other = commit(t, s, verifier.Commit{Node: other, Transition: transition(other, seq+1)})
	}
	for _, page := range []struct {
		after uint64
		limit int
		want  []uint64
	}{
		{0, 2, []uint64{1, 2}}, {2, 2, []uint64{3, 4}}, {4, 2, []uint64{5}}, {5, 2, nil}, {1<<64 - 1, 2, nil},
	} {
		rows, err := s.Evidence.Transitions(t.Context(), n.ID, page.after, page.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, row := range rows {
			if row.Node != n.ID {
				t.Errorf("a transition of %q among those of %q", row.Node, n.ID)
			}
			got = append(got, row.Seq)
		}
		same(t, "page", page.want, got)
	}
	if rows, err := s.Evidence.Transitions(t.Context(), "nobody", 0, 10); err != nil || len(rows) != 0 {
		t.Errorf("transitions of nobody: %v, %v", rows, err)
	}
}

func listContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"GrowAtTheirEnd":          listsGrow,
		"HaveNoHoles":             listsHaveNoHoles,
		"StartAgainAtZero":        listsStartAgain,
		"BelongToOneNodeAndBoot":  listsAreApart,
		"AreWrittenWithTheirNode": listsAreAtomic,
	}
}

func chunk(boot string, first uint64, lines ...string) machine.Chunk {
	c := machine.Chunk{Boot: boot, First: first, Count: uint64(len(lines))}
	for _, line := range lines {
		c.ASCII = append(c.ASCII, line+"\n"...)
	}
	return c
}

func wantList(t *testing.T, s Stores, id attest.AgentID, want machine.Chunk) {
	t.Helper()
	got, err := s.Evidence.List(t.Context(), id, want.Boot)
	if err != nil {
		t.Fatalf("list of %q: %v", want.Boot, err)
	}
	same(t, "list of "+want.Boot, want, got)
}

func listsGrow(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	if _, err := s.Evidence.List(t.Context(), n.ID, "boot-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("list of a boot without one: %v, want ErrNotFound", err)
	}
	n = commit(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 0, "a", "b")}})
	wantList(t, s, n.ID, chunk("boot-1", 0, "a", "b"))
	n = commit(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 2, "c"), chunk("boot-1", 3, "d", "e")}})
	wantList(t, s, n.ID, chunk("boot-1", 0, "a", "b", "c", "d", "e"))
	commit(t, s, verifier.Commit{Node: n}) // a commit without evidence changes none
	wantList(t, s, n.ID, chunk("boot-1", 0, "a", "b", "c", "d", "e"))
}

// A hole or an overlap would make stored evidence that cannot be replayed; it is refused with all that came with it.
func listsHaveNoHoles(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	refused(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 1, "b")}}, "a list that starts at 1")
	n = commit(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 0, "a", "b")}})
	for name, bad := range map[string][]machine.Chunk{
		"a hole":                    {chunk("boot-1", 3, "d")},
		"an overlap":                {chunk("boot-1", 1, "b", "c")},
		"the same chunk again":      {chunk("boot-1", 2, "c"), chunk("boot-1", 2, "c")},
		"a hole after a good chunk": {chunk("boot-1", 2, "c"), chunk("boot-1", 4, "e")},
		"an empty chunk":            {{Boot: "boot-1", First: 2}},
	} {
		refused(t, s, verifier.Commit{Node: n, Chunks: bad, Transition: transition(n, 1)}, name)
		wantList(t, s, n.ID, chunk("boot-1", 0, "a", "b"))
	}
	if rows, err := s.Evidence.Transitions(t.Context(), n.ID, 0, 10); err != nil || len(rows) != 0 {
		t.Errorf("transitions of refused commits: %v, %v", rows, err)
	}
}

func listsStartAgain(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	n = commit(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 0, "a", "b"), chunk("boot-1", 2, "c")}})
	n = commit(t, s, verifier.Commit{Node: n, Chunks: []machine.Chunk{chunk("boot-1", 0, "x"), chunk("boot-1", 1, "y")}})
	wantList(t, s, n.ID, chunk("boot-1", 0, "x", "y"))
}

func listsAreApart(t *testing.T, s Stores) {
	one, two := insert(t, s, node("node-1")), insert(t, s, node("node-2"))
	one = commit(t, s, verifier.Commit{Node: one, Chunks: []machine.Chunk{chunk("boot-1", 0, "a"), chunk("boot-2", 0, "b")}})
	two = commit(t, s, verifier.Commit{Node: two, Chunks: []machine.Chunk{chunk("boot-1", 0, "a")}})
	one = commit(t, s, verifier.Commit{Node: one, Chunks: []machine.Chunk{chunk("boot-1", 0, "c")}})
	wantList(t, s, one.ID, chunk("boot-1", 0, "c"))
	wantList(t, s, one.ID, chunk("boot-2", 0, "b"))
	wantList(t, s, two.ID, chunk("boot-1", 0, "a"))
}

func listsAreAtomic(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	commit(t, s, verifier.Commit{Node: n})
	lost := verifier.Commit{Node: n, Expect: n.Version, Chunks: []machine.Chunk{chunk("boot-1", 0, "a")}, BootLog: []byte("log"), Quotes: []machine.StoredQuote{storedQuote("1", "boot-1")}}
	if _, err := s.Nodes.Commit(t.Context(), lost); !errors.Is(err, verifier.ErrConflict) {
		t.Fatalf("commit at an old version: %v, want ErrConflict", err)
	}
	if _, err := s.Evidence.List(t.Context(), n.ID, "boot-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("list of a lost commit: %v, want ErrNotFound", err)
	}
	if _, err := s.Evidence.BootLog(t.Context(), n.ID, "boot-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("boot log of a lost commit: %v, want ErrNotFound", err)
	}
	if _, err := s.Evidence.Quote(t.Context(), n.ID, attest.Digest{}); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("quote of a lost commit: %v, want ErrNotFound", err)
	}
}

func quoteContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){
		"AreReadAsTheyWereWritten":      quotesAreReadAsWritten,
		"OfTransitionsAreKept":          quotesOfTransitionsAreKept,
		"WithoutATransitionAreReplaced": quotesAreReplaced,
	}
}

func storedQuote(name, boot string) machine.StoredQuote {
	return machine.StoredQuote{
		Digest: digestOf("quote " + name), Node: "node-1", Boot: boot, At: start, Nonce: "nonce" + name, Packed: "r" + name + ":s:p",
		Bank: attest.SHA256, Mask: 1<<23 | 1<<10, Position: 1 << 40,
	}
}

func quotesAreReadAsWritten(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	if _, err := s.Evidence.Quote(t.Context(), n.ID, attest.Digest{}); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("last quote of a node without one: %v, want ErrNotFound", err)
	}
	want := storedQuote("1", "boot-1")
	commit(t, s, verifier.Commit{Node: n, Quotes: []machine.StoredQuote{want}})
	for _, name := range []attest.Digest{{}, want.Digest} {
		got, err := s.Evidence.Quote(t.Context(), n.ID, name)
		if err != nil {
			t.Fatalf("quote %q: %v", name, err)
		}
		same(t, "quote", want, got)
	}
	if _, err := s.Evidence.Quote(t.Context(), n.ID, digestOf("another")); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("unknown quote: %v, want ErrNotFound", err)
	}
	if _, err := s.Evidence.Quote(t.Context(), "node-2", want.Digest); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("quote of another node: %v, want ErrNotFound", err)
	}
}

func quotesOfTransitionsAreKept(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	behind, later := storedQuote("1", "boot-1"), storedQuote("2", "boot-1")
	named := transition(n, 1)
	named.Quote = behind.Digest
	n = commit(t, s, verifier.Commit{Node: n, Quotes: []machine.StoredQuote{behind}, Transition: named})
	commit(t, s, verifier.Commit{Node: n, Quotes: []machine.StoredQuote{later}})
	got, err := s.Evidence.Quote(t.Context(), n.ID, behind.Digest)
	if err != nil {
		t.Fatalf("the quote behind a transition: %v", err)
	}
	same(t, "quote behind a transition", behind, got)
	if got, err = s.Evidence.Quote(t.Context(), n.ID, attest.Digest{}); err != nil {
		t.Fatal(err)
	}
	same(t, "last quote", later, got)
}

func quotesAreReplaced(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	first, second, third := storedQuote("1", "boot-1"), storedQuote("2", "boot-1"), storedQuote("3", "boot-2")
	n = commit(t, s, verifier.Commit{Node: n, Quotes: []machine.StoredQuote{first}})
	n = commit(t, s, verifier.Commit{Node: n})
	if _, err := s.Evidence.Quote(t.Context(), n.ID, first.Digest); err != nil {
		t.Errorf("the last quote after a commit without one: %v", err)
	}
	commit(t, s, verifier.Commit{Node: n, Quotes: []machine.StoredQuote{second, third}})
	got, err := s.Evidence.Quote(t.Context(), n.ID, attest.Digest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "last quote", third, got)
	if _, err := s.Evidence.Quote(t.Context(), n.ID, first.Digest); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("a replaced quote that no transition names: %v, want ErrNotFound", err)
	}
}

func bootLogContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"AreKeptByBoot": bootLogsAreKept}
}

func bootLogsAreKept(t *testing.T, s Stores) {
	n := insert(t, s, node("node-1"))
	if _, err := s.Evidence.BootLog(t.Context(), n.ID, "boot-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("boot log of a boot without one: %v, want ErrNotFound", err)
	}
	other := insert(t, s, node("node-2"))
	commit(t, s, verifier.Commit{Node: other, BootLog: []byte("log\x00of a firmware")})
	n = commit(t, s, verifier.Commit{Node: n, BootLog: []byte("log\x00of a firmware")})
	n.State.Boot = "boot-2"
	n = commit(t, s, verifier.Commit{Node: n, BootLog: []byte("of the second boot")})
	commit(t, s, verifier.Commit{Node: n})
	for boot, want := range map[string]string{"boot-1": "log\x00of a firmware", "boot-2": "of the second boot"} {
		got, err := s.Evidence.BootLog(t.Context(), n.ID, boot)
		if err != nil || string(got) != want {
			t.Errorf("boot log of %s: %q, %v; want %q", boot, got, err, want)
		}
	}
}

func removalContract() map[string]func(*testing.T, Stores) {
	return map[string]func(*testing.T, Stores){"TakesTheEvidenceAlong": removalTakesEvidence}
}

// Whoever is enrolled under the same id later inherits nothing; a neighbour with the same evidence keeps its own.
func removalTakesEvidence(t *testing.T, s Stores) {
	full := func(n verifier.Node) verifier.Node {
		named := transition(n, 1)
		named.Quote = storedQuote("1", "boot-1").Digest
		return commit(t, s, verifier.Commit{
			Node: n, Transition: named, Quotes: []machine.StoredQuote{storedQuote("1", "boot-1")},
			Chunks: []machine.Chunk{chunk("boot-1", 0, "a")}, BootLog: []byte("log"),
		})
	}
	gone, stays := full(insert(t, s, node("node-1"))), full(insert(t, s, node("node-2")))
	if err := s.Nodes.RemoveNode(t.Context(), gone.ID, gone.Version); err != nil {
		t.Fatal(err)
	}
	again := insert(t, s, node("node-1"))
	for id, want := range map[attest.AgentID]bool{again.ID: false, stays.ID: true} {
		_, list := s.Evidence.List(t.Context(), id, "boot-1")
		_, log := s.Evidence.BootLog(t.Context(), id, "boot-1")
		_, last := s.Evidence.Quote(t.Context(), id, attest.Digest{})
		_, named := s.Evidence.Quote(t.Context(), id, storedQuote("1", "boot-1").Digest)
		for what, err := range map[string]error{"list": list, "boot log": log, "last quote": last, "quote of a transition": named} {
			if have := err == nil; have != want || !have && !errors.Is(err, verifier.ErrNotFound) {
				t.Errorf("%s of %q: %v; want it there: %t", what, id, err, want)
			}
		}
		rows, err := s.Evidence.Transitions(t.Context(), id, 0, 10)
		if have := len(rows) > 0; err != nil || have != want {
			t.Errorf("transitions of %q: %v, %v; want them there: %t", id, rows, err, want)
		}
	}
	commit(t, s, verifier.Commit{Node: again, Transition: transition(again, 1)}) // numbers start again
}
