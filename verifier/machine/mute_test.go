package machine

import (
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// What people are told of a mute is a function of state and time, as the verdict is.
func TestMuteView(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
	w.round(nil)
	w.step(Cordoned{Now: w.now, On: true})
	for _, row := range []struct {
		after time.Duration
		want  *api.Mute
	}{
		{0, &api.Mute{Until: w.now.Add(muteLimit)}},
		{3 * time.Minute, &api.Mute{Until: w.now.Add(muteLimit), Stale: true}},
		{muteLimit, nil},
	} {
		got := w.state.Mute(w.now.Add(row.after), w.who.Interval)
		if (got == nil) != (row.want == nil) || got != nil && *got != *row.want {
			t.Errorf("after %v: %+v, want %+v", row.after, got, row.want)
		}
	}
}

// A clock that is set back does not make a mute longer.
func TestMuteUnderAClockThatIsSetBack(t *testing.T) {
	for name, row := range map[string]struct {
		back time.Duration
		want attest.Verdict
	}{"by a day": {24 * time.Hour, attest.Stale}, "not at all": {0, attest.Trusted}} {
		w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
		w.round(nil)
		w.step(Cordoned{Now: w.now, On: true})
		w.now = w.now.Add(-row.back) // the server's alone: the TPM's goes on
		w.round(nil)
		if w.verdict() != attest.Trusted || w.state.Accepted != 2 {
			t.Fatalf("%s: %s after a round, %v", name, w.verdict(), w.state.Failures)
		}
		w.pass(3 * time.Minute)
		if got := w.verdict(); got != row.want {
			t.Errorf("%s: %s after 3 minutes of silence, want %s", name, got, row.want)
		}
	}
}
