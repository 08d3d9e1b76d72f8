package machine

import (
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// A clock that is set back leaves evidence in the future: nobody knows how old that is, so it is not fresh, muted or not.
func TestEvidenceFromTheFutureIsNotFresh(t *testing.T) {
	now := testStart
	for name, tt := range map[string]struct {
		s    State
		want attest.Verdict
	}{
		"a little ahead":       {State{Verdict: attest.Trusted, LastAccepted: now.Add(clockSkew)}, attest.Trusted},
		"ahead":                {State{Verdict: attest.Trusted, LastAccepted: now.Add(clockSkew + 1)}, attest.Stale},
		"a year ahead":         {State{Verdict: attest.Trusted, LastAccepted: now.AddDate(1, 0, 0)}, attest.Stale},
		"ahead and muted":      {State{Verdict: attest.Trusted, LastAccepted: now.Add(time.Hour), Muted: true, MutedFrom: now.Add(time.Hour)}, attest.Stale},
		"enrolled ahead":       {State{Verdict: attest.Pending, Enrolled: now.Add(time.Hour)}, attest.Stale},
		"failed, ahead":        {State{Verdict: attest.Failed, QuoteBacked: true, LastAccepted: now.Add(time.Hour)}, attest.Failed},
		"enrolled ahead, well": {State{Verdict: attest.Trusted, Enrolled: now.Add(time.Hour), LastAccepted: now}, attest.Trusted},
	} {
		if got := tt.s.Read(now, 30*time.Second); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// A machine that registers another AK before each is ever quoted by is silent, and shows so in the time of every other one.
func TestNewKeysDoNotKeepANodePending(t *testing.T) {
	for name, accepted := range map[string]bool{"after an accepted quote": true, "since its enrolment": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
			w.step(Due{Now: w.now})
			if accepted {
				w.round(nil)
			}
			for range 2 {
				w.pass(time.Minute)
				w.box.Reimage()
				w.reimage()
				if got := w.verdict(); got != attest.Pending {
					t.Fatalf("%s, want Pending", got)
				}
			}
			w.pass(time.Minute)
			w.box.Reimage()
			w.reimage()
			if got := w.verdict(); got != attest.Stale {
				t.Errorf("%s after keys for three minutes, want Stale", got)
			}
			w.round(nil)
			if got := w.verdict(); got != attest.Trusted {
				t.Errorf("%s after a quote: %v", got, w.state.Failures)
			}
		})
	}
}
