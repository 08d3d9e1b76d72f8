package nodes

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

func at(id attest.AgentID, node, uid string) api.Node {
	n := api.Node{ID: id, Verdict: attest.Trusted, TpmPresent: true}
	if node != "" {
		n.KubernetesNode = &api.KubernetesNode{Name: node, UID: uid}
	}
	return n
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// TestViewTells: a reading names the Nodes about which something changed, and no others.
func TestViewTells(t *testing.T) {
	due := api.Reaction{ID: 1, Node: "x", State: api.ReactionDue, Identity: &api.KubernetesNode{Name: "a", UID: "1"}}
	applied := due
	applied.State = api.ReactionApplied
	start := reading{nodes: []api.Node{at("x", "a", "1"), at("y", "b", "2"), at("z", "", "")}}
	for name, row := range map[string]struct {
		change func(*reading)
		want   []string
	}{
		"nothing":                         {func(*reading) {}, nil},
		"another round":                   {func(r *reading) { r.nodes[0].LastTried, r.nodes[0].Accepted = now, 7 }, nil},
		"a verdict":                       {func(r *reading) { r.nodes[0].Verdict = attest.Failed }, []string{"a"}},
		"first evidence":                  {func(r *reading) { r.nodes[0].Enrolled, r.nodes[0].LastAccepted = now, now }, []string{"a"}},
		"bound":                           {func(r *reading) { r.nodes[2] = at("z", "c", "3") }, []string{"c"}},
		"moved to another Node":           {func(r *reading) { r.nodes[0] = at("x", "c", "3") }, []string{"a", "c"}},
		"a new Node of the name":          {func(r *reading) { r.nodes[0] = at("x", "a", "9") }, []string{"a"}},
		"unbound":                         {func(r *reading) { r.nodes[0] = at("x", "", "") }, []string{"a"}},
		"removed":                         {func(r *reading) { r.nodes = r.nodes[1:] }, []string{"a"}},
		"one that was bound to none gone": {func(r *reading) { r.nodes = r.nodes[:2] }, nil},
		"suspended":                       {func(r *reading) { r.suspended.Suspended = true }, []string{AllNodes}},
		"a reaction is due":               {func(r *reading) { r.reactions = []api.Reaction{due} }, []string{"a"}},
		"a reaction of one not bound":     {func(r *reading) { r.nodes = r.nodes[1:]; r.reactions = []api.Reaction{due} }, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewView(ViewConfig{})
			if got := sorted(v.take(start)); !slices.Equal(got, []string{"a", "b"}) {
				t.Fatalf("at first %v", got)
			}
			next := reading{nodes: slices.Clone(start.nodes)}
			row.change(&next)
			if diff := cmp.Diff(row.want, sorted(v.take(next))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	v := NewView(ViewConfig{})
	v.take(start)
	for i, step := range []struct {
		open []api.Reaction
		want []string
	}{
		{[]api.Reaction{due}, []string{"a"}}, {[]api.Reaction{due}, []string{"a"}}, // offered until it is done
		{[]api.Reaction{applied}, []string{"a"}}, {[]api.Reaction{applied}, nil}, {nil, []string{"a"}}, {nil, nil},
	} {
		if diff := cmp.Diff(step.want, sorted(v.takeReactions(step.open))); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestViewOfANode: a Node's name leads to the one machine that is bound to it now.
func TestViewOfANode(t *testing.T) {
	v := NewView(ViewConfig{})
	open := []api.Reaction{
		{ID: 1, Node: "x", State: api.ReactionApplied, Owner: "NodePolicy/workers"}, {ID: 2, Node: "y", State: api.ReactionWaiting, Owner: "NodePolicy/workers"},
		{ID: 3, Node: "z", State: api.ReactionDue, Owner: "NodePolicy/others"},
	}
	v.take(reading{nodes: []api.Node{at("x", "a", "1"), at("y", "b", "2")}, reactions: open, documents: []api.Policy{{Name: "host"}}})
	if s := v.of("a"); s.machine == nil || s.machine.ID != "x" || s.reaction == nil || s.reaction.ID != 1 || s.suspended || s.connected {
		t.Errorf("a: %+v", s)
	}
	if s := v.of("stranger"); s.machine != nil || s.reaction != nil {
		t.Errorf("a Node of no machine: %+v", s)
	}
	if n := v.owned("NodePolicy/workers"); n != 1 {
		t.Errorf("%d take the budget; one that waits does not", n)
	}
	if name, ok := v.nodeOf("y"); !ok || name != "b" {
		t.Errorf("y is on %q", name)
	}
	if _, ok := v.nodeOf("z"); ok {
		t.Error("z is on a Node")
	}
	if p, ok := v.document(attest.Digest{}.String()); !ok || p.Name != "host" {
		t.Errorf("document %+v, %v", p, ok)
	}
	if _, ok := v.document("sha256:none"); ok {
		t.Error("a document that is not stored is found")
	}
	// The machine y takes x's place: the former machine leaves nothing under the name.
	v.put(at("y", "a", "9"))
	if s := v.of("a"); s.machine == nil || s.machine.ID != "y" || s.reaction.ID != 2 {
		t.Errorf("a, after y moved there: %+v", s)
	}
	if s := v.of("b"); s.machine != nil {
		t.Errorf("b, after y has gone: %+v", s)
	}
}

// TestPlaceTaken: a machine comes to the Node of another one, which leaves it in the same reading. Whichever is read first, the Node has the new one.
func TestPlaceTaken(t *testing.T) {
	for name, leaves := range map[string]api.Node{"unbound": at("x", "", ""), "moved": at("x", "c", "3")} {
		for order, nodes := range map[string][]api.Node{"the new one first": {at("y", "a", "9"), leaves}, "the former one first": {leaves, at("y", "a", "9")}} {
			v := NewView(ViewConfig{})
			v.take(reading{nodes: []api.Node{at("x", "a", "1"), at("y", "b", "2")}})
			v.take(reading{nodes: nodes})
			if s := v.of("a"); s.machine == nil || s.machine.ID != "y" {
				t.Errorf("%s, %s: Node a has %+v", name, order, s.machine)
			}
		}
	}
}

// TestViewWithoutServer: what was known stays, is marked as old, and every Node hears of it once.
func TestViewWithoutServer(t *testing.T) {
	var told []string
	away := errors.New("no route")
	v := NewView(ViewConfig{Interval: time.Hour, Connect: func() (Server, error) { return nil, away }, Changed: func(n []string) { told = append(told, n...) }})
	v.take(reading{nodes: []api.Node{at("x", "a", "1")}})
	v.connected = true
	if err := v.Refresh(t.Context()); !errors.Is(err, away) || !slices.Equal(sorted(told), []string{AllNodes, "a"}) {
		t.Errorf("%v, told %v", err, told)
	}
	if s := v.of("a"); s.connected || s.machine == nil {
		t.Errorf("a: %+v", s)
	}
	if ok, why := v.Connected(); ok || !errors.Is(why, away) {
		t.Errorf("connected %v, %v", ok, why)
	}
	told = nil
	if err := v.Refresh(t.Context()); !errors.Is(err, away) || len(told) != 0 {
		t.Errorf("%v; the second time it told %v", err, told)
	}
}
