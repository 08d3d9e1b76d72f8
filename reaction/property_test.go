package reaction_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
)

// Whatever happens in whatever order: no owner has more nodes under reaction than its budget, no node has two open rows, what an operator
// may have touched ends by lifting alone, and nothing becomes due while reactions are suspended.
func TestInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newStory(t)
		budget := map[string]int{"NodePolicy/p": rapid.IntRange(0, 3).Draw(rt, "budget of p"), "NodePolicy/q": rapid.IntRange(0, 3).Draw(rt, "budget of q")}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			before := all(rt, s)
			line := nextLine(rt, budget)
			_ = s.tell(line) // refusals are part of the game
			invariants(rt, s, budget)
			follows(rt, s, before, line)
		}
	})
}

func nextLine(rt *rapid.T, budget map[string]int) string {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3", "n4", "n5"}).Draw(rt, "node")
	row := rapid.IntRange(1, 12).Draw(rt, "row")
	op := rapid.SampledFrom([]string{"op-a", "op-b"}).Draw(rt, "operator")
	switch verb := rapid.SampledFrom([]string{"fails", "fails", "fails-again", "moves", "quiet", "passes", "turned", "claim", "claim", "claim", "done", "done", "broke",
		"suspend", "resume", "withdraw", "rebound", "later 30s", "later 10m"}).Draw(rt, "verb"); verb {
	case "fails", "fails-again", "quiet":
		return fmt.Sprintf("%s %s %d", verb, node, budget["NodePolicy/p"])
	case "moves":
		return fmt.Sprintf("moves %s %d", node, budget["NodePolicy/q"])
	case "claim", "done", "broke":
		return fmt.Sprintf("%s %d %s", verb, row, op)
	default:
		return verb + " " + node
	}
}

func all(rt *rapid.T, s *story) []reaction.Row {
	rows, err := s.book.Rows(reaction.Query{})
	if err != nil {
		rt.Fatal(err)
	}
	return rows
}

func invariants(rt *rapid.T, s *story, budget map[string]int) {
	taken, open := map[string]int{}, map[attest.AgentID]int{}
	for _, r := range all(rt, s) {
		if slices.Contains(reaction.Taken(), r.State) {
			taken[r.Owner]++
		}
		if slices.Contains(reaction.Open(), r.State) {
			open[r.Node]++
		}
		if r.State == api.ReactionWaiting && r.Attempts > 0 {
			rt.Fatalf("row %d waits although somebody tried it:\n%s", r.ID, s.rows())
		}
	}
	for owner, n := range taken {
		if n > budget[owner] {
			rt.Fatalf("%s has %d nodes under reaction, its budget is %d:\n%s", owner, n, budget[owner], s.rows())
		}
	}
	for node, n := range open {
		if n > 1 {
			rt.Fatalf("node %s has %d open rows:\n%s", node, n, s.rows())
		}
	}
}

// follows compares the rows with those before the step.
func follows(rt *rapid.T, s *story, before []reaction.Row, line string) {
	suspension, err := s.book.Suspension()
	if err != nil {
		rt.Fatal(err)
	}
	for i, r := range all(rt, s) {
		var old reaction.Row
		if i < len(before) {
			old = before[i]
		}
		if r.State == api.ReactionDropped && old.Attempts > 0 && old.State != api.ReactionDropped {
			rt.Fatalf("after %q row %d was dropped although somebody tried it:\n%s", line, r.ID, s.rows())
		}
		if suspension.Suspended && r.Attempts > old.Attempts {
			rt.Fatalf("after %q row %d is begun although reactions are suspended:\n%s", line, r.ID, s.rows())
		}
		if suspension.Suspended && r.State == api.ReactionDue && old.State != api.ReactionDue && old.State != api.ReactionClaimed {
			rt.Fatalf("after %q row %d is due although reactions are suspended:\n%s", line, r.ID, s.rows())
		}
	}
}
