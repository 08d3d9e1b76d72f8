package verifier

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// looking makes a fleet whose verifier looks at what endorses TPMs now.
func looking(t *testing.T) *fleet {
	f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
	f.cfg.Roots, f.cfg.Keys = f.store, f.store
	return f
}

// settled is long enough for a round after what endorses TPMs was read again.
const settled = 2*round + endorsersAge

// A node fails while the root that its EK leads to is not accepted, and only then; one by first use and one of another maker go on.
func TestRootThatIsAcceptedNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := looking(t)
		m, other := boxtest.NewMaker(t, time.Now()), boxtest.NewMaker(t, time.Now())
		root := Root{Fingerprint: m.Fingerprint, Subject: "CN=Maker"}
		for _, r := range []Root{root, {Fingerprint: other.Fingerprint, Subject: "CN=Other"}} {
			if err := f.store.AddRoot(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		f.start()
		f.enrolEndorsed(m, false, "base")
		f.enrol("node-2", "base") // by first use
		sleep(settled)
		f.want(node1, attest.Trusted)
		if err := f.store.RemoveRoot(t.Context(), m.Fingerprint); err != nil {
			t.Fatal(err)
		}
		sleep(settled)
		n := f.want(node1, attest.Failed)
		if len(n.State.Failures) != 1 || n.State.Failures[0].ID != attest.EkNotEndorsed || n.State.QuoteBacked || n.State.Failures[0].ID.Info().Class != attest.Unauthenticated {
			t.Errorf("failures %v, backed by a quote: %v", n.State.Failures, n.State.QuoteBacked)
		}
		f.want("node-2", attest.Trusted)
		if silent, _ := f.v.silence(); silent != 0 {
			t.Error("a node that answers counts as silent")
		}
		sleep(5 * round)
		if err := f.store.AddRoot(t.Context(), root); err != nil {
			t.Fatal(err)
		}
		sleep(settled)
		f.want(node1, attest.Trusted)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Failed, attest.Trusted)

		// As a root of emulators it comes back for those that name it.
		if err := f.store.RemoveRoot(t.Context(), m.Fingerprint); err != nil {
			t.Fatal(err)
		}
		root.Emulated = true
		if err := f.store.AddRoot(t.Context(), root); err != nil {
			t.Fatal(err)
		}
		sleep(settled)
		if n := f.want(node1, attest.Failed); !strings.Contains(n.State.Failures[0].Detail, "root of emulators by now") {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.assign(node1, api.Assignment{EndorsedBy: []attest.Digest{m.Fingerprint}})
		sleep(settled)
		f.want(node1, attest.Trusted)
		f.end()
	})
}

// What a quote proves is not displaced by the loss of the endorsement, and the loss shows nowhere where no policy applies.
func TestLostEndorsementDisplacesNoProof(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := looking(t)
		f.start()
		b := f.enrolEndorsed(boxtest.NewMaker(t, time.Now()), false, "base")
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(settled)
		if n := f.want(node1, attest.Failed); !n.State.QuoteBacked || n.State.Failures[0].ID != attest.FileNotInPolicy {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.end()
	})
	synctest.Test(t, func(t *testing.T) {
		f := looking(t)
		f.start()
		f.enrolEndorsed(boxtest.NewMaker(t, time.Now()), false)
		sleep(settled)
		f.want(node1, attest.Unappraised)
		f.end()
	})
}

// brokenKeys cannot be read.
type brokenKeys struct{ *MemoryStore }

func (brokenKeys) Keys(context.Context) ([]api.ListedKey, error) { return nil, errors.New("disk") }

func TestEndorsers(t *testing.T) {
	ctx, now := t.Context(), time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	store := NewMemoryStore()
	m := boxtest.NewMaker(t, now)
	ek, err := endorsement.ParseEK(boxtest.EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	vendor := Enrolment{EK: boxtest.EKPublic(), EndorsedBy: "CN=Maker", EndorsedRoot: m.Fingerprint}
	old := Enrolment{EK: boxtest.EKPublic(), EndorsedBy: "CN=Maker"}
	listed := Enrolment{EK: boxtest.EKPublic()}
	check := func(what string, e Enrolment, why string) {
		t.Helper()
		word, err := (&endorsers{roots: store, keys: store}).word(ctx, Node{Enrolment: e}, now)
		failure := word.Doubt()
		if err != nil || (failure != nil) != (why != "") || failure != nil && !strings.Contains(failure.Detail, why) {
			t.Errorf("%s: %v, %v, want %q", what, failure, err, why)
		}
	}
	check("vendor", vendor, "accepted no longer")
	check("without a fingerprint", old, "accepted no longer")
	check("listed", listed, "listed no longer")
	check("first use", Enrolment{FirstUse: true}, "")
	if err := store.AddRoot(ctx, Root{Fingerprint: m.Fingerprint, Subject: "CN=Maker"}); err != nil {
		t.Fatal(err)
	}
	check("vendor", vendor, "")
	check("without a fingerprint", old, "")
	if err := errors.Join(store.RemoveRoot(ctx, m.Fingerprint), store.AddKey(ctx, api.ListedKey{EK: ek.ID()})); err != nil {
		t.Fatal(err)
	}
	check("listed", listed, "")
	check("a vendor's, listed by now", vendor, "")
	word, err := (&endorsers{roots: store, keys: brokenKeys{store}}).word(ctx, Node{Enrolment: vendor}, now)
	if err == nil || word.Doubt() == nil {
		t.Errorf("what could not be read was no error, or counts: %v", err)
	}
}

// What cannot be found out is no verdict: the round does not count, and the node turns Stale.
func TestEndorsersThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := looking(t)
		f.cfg.Keys = brokenKeys{f.store}
		f.start()
		f.enrolEndorsed(boxtest.NewMaker(t, time.Now()), false, "base")
		sleep(settled)
		if n := f.want(node1, attest.Pending); n.State.Trouble == nil || !strings.Contains(n.State.Trouble.Detail, "this server cannot judge the node") {
			t.Errorf("trouble %v", n.State.Trouble)
		}
		sleep(machine.StaleAfter(30 * time.Second))
		f.want(node1, attest.Stale)
		f.end()
	})
}
