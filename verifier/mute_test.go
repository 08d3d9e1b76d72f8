package verifier

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

func (f *fleet) cordon(id attest.AgentID, on bool) {
	f.t.Helper()
	if err := f.v.Cordon(f.t.Context(), id, api.Cordon{Cordoned: on}); err != nil {
		f.t.Fatal(err)
	}
}

// crowd enrols enough nodes that one silent one is no more than a fifth of the fleet; the first gets the assignment.
func (f *fleet) crowd(a api.Assignment) {
	f.t.Helper()
	for _, id := range []attest.AgentID{node1, "node-2", "node-3", "node-4", "node-5"} {
		f.enrol(id, "base")
	}
	f.assign(node1, a)
}

// Reactions to silence follow the muted reading, also where the server starts anew meanwhile; the same silence without the cordon brings one.
func TestMuteHoldsReactionsToSilence(t *testing.T) {
	for name, cordoned := range map[string]bool{"cordoned": true, "not cordoned": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				f.crowd(enforcing())
				sleep(round)
				f.cordon(node1, cordoned)
				f.on(func() { f.silent[string(node1)] = errors.New("no route") })
				sleep(10 * time.Minute)
				f.end()
				f.start()
				sleep(10 * time.Minute)
				if !cordoned {
					f.want(node1, attest.Stale)
					f.wantReactions("after 20 minutes", "node-1 Silence Due")
					f.end()
					return
				}
				f.want(node1, attest.Trusted)
				f.wantReactions("after 20 minutes")
				sleep(11 * time.Minute)
				f.want(node1, attest.Stale)
				f.wantReactions("after the mute", "node-1 Silence Due")
				f.end()
			})
		})
	}
}

// Appraisal goes on in a mute, and what it finds shows and is reacted to.
func TestMuteHidesNoFailure(t *testing.T) {
	for name, row := range map[string]struct {
		fault    func(f *fleet, b *boxtest.Box)
		failure  attest.FailureID
		reaction []string
	}{
		"that a quote proves":          {func(_ *fleet, b *boxtest.Box) { b.Run("/usr/bin/evil", "") }, attest.FileNotInPolicy, []string{"node-1 Failure Due"}},
		"of the class Unauthenticated": {func(f *fleet, _ *boxtest.Box) { f.faults[string(node1)] = boxtest.Faults{"stale-nonce": ""} }, attest.NonceMismatch, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				b := f.enrol(node1, "base")
				f.assign(node1, enforcing())
				sleep(round)
				f.cordon(node1, true)
				sleep(round)
				f.want(node1, attest.Trusted)
				f.on(func() { row.fault(f, b) })
				sleep(round)
				n := f.want(node1, attest.Failed)
				if len(n.State.Failures) != 1 || n.State.Failures[0].ID != row.failure {
					t.Errorf("failures %v, want %s", n.State.Failures, row.failure)
				}
				f.wantReactions(name, row.reaction...)
				f.end()
			})
		})
	}
}
