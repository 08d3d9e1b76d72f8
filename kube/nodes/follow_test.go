package nodes

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

func TestHeardGathers(t *testing.T) {
	h := newHeard()
	for _, id := range []attest.AgentID{"b", "a", "b"} {
		h.note(id) // nobody reads meanwhile, and nothing waits
	}
	select {
	case <-h.awake:
	default:
		t.Error("nobody is woken")
	}
	ids, all := h.take()
	slices.Sort(ids)
	if diff := cmp.Diff([]attest.AgentID{"a", "b"}, ids); diff != "" || all {
		t.Errorf("all %t, %s", all, diff)
	}
	h.everything()
	if ids, all := h.take(); len(ids) > 0 || !all {
		t.Errorf("a new connection: %v, all %t", ids, all)
	}
	if ids, all := h.take(); len(ids) > 0 || all {
		t.Errorf("taken twice: %v, all %t", ids, all)
	}
}

func TestFewMachines(t *testing.T) {
	for machines, want := range map[int]int{0: fewMachines, 100: fewMachines, 5000: 250} {
		v := NewView(ViewConfig{})
		for i := range machines {
			v.machines[attest.AgentID(rune('a'+i))] = api.Node{}
		}
		if got := v.few(); got != want {
			t.Errorf("of %d machines %d are few, want %d", machines, got, want)
		}
	}
}

// TestStartSaysNothing: until the server is heard, or patience ends, Nodes and policies are left alone; then all are looked at.
func TestStartSaysNothing(t *testing.T) {
	var told []string
	v := NewView(ViewConfig{Interval: time.Hour, Connect: func() (Server, error) { return nil, ErrNotConnected }, Changed: func(names []string) { told = append(told, names...) }})
	if err := v.Refresh(t.Context()); !errors.Is(err, ErrNotConnected) || !v.starting() || len(told) > 0 {
		t.Errorf("%v, starting %t, told %v", err, v.starting(), told)
	}
	// Neither has a client to read or write with.
	for name, reconcile := range map[string]reconcile.Func{"Node": (&Reconciler{View: v}).Reconcile, "NodePolicy": (&PolicyReconciler{View: v}).Reconcile} {
		if result, err := reconcile(t.Context(), ctrl.Request{}); err != nil || result != (ctrl.Result{}) {
			t.Errorf("%s: %+v, %v", name, result, err)
		}
	}
	v.endPatience()
	if diff := cmp.Diff([]string{AllNodes}, told); diff != "" || v.starting() {
		t.Errorf("starting %t, %s", v.starting(), diff)
	}
	v.endPatience()
	if len(told) != 1 {
		t.Errorf("told again: %v", told)
	}
}
