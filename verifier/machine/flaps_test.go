package machine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// rows counts the transitions that the last step recorded.
func rows(w *world) (n int) {
	for _, a := range w.actions {
		if _, ok := a.(Record); ok {
			n++
		}
	}
	return n
}

// A node that answers well and badly in turn for a day writes a few rows and not one for each round, and every row is what was shown.
func TestAlternatingAnswersWriteFewRows(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
	w.who.Interval = 5 * time.Minute
	w.round(nil)
	written, shown := 0, w.verdict()
	for i := range 24 * 12 {
		f := boxtest.Faults(nil)
		if i%2 == 0 {
			f = boxtest.Faults{"other-ak": ""}
		}
		w.round(f)
		written += rows(w)
		if now := w.verdict(); (now != shown) != (rows(w) == 1) {
			t.Fatalf("round %d: %s after %s with %d rows", i, now, shown, rows(w))
		} else {
			shown = now
		}
	}
	if written < 2*freeFlaps || written > 2*freeFlaps+7 {
		t.Errorf("%d rows in a day", written)
	}
	// It ends by itself when the answers stay good.
	for range 2 + int(longestHold/w.who.Interval) {
		w.round(nil)
	}
	if got := w.verdict(); got != attest.Trusted {
		t.Errorf("%s after an hour of good answers: %v", got, w.state.Failures)
	}
}

// flapping returns a world whose present failure does not end with the next good answer.
func flapping(t *testing.T) *world {
	w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
	w.round(nil)
	for range freeFlaps {
		w.round(boxtest.Faults{"other-ak": ""})
		w.round(nil)
		if w.verdict() != attest.Trusted {
			t.Fatalf("%s after %d failures", w.verdict(), w.state.Flaps)
		}
	}
	w.round(boxtest.Faults{"other-ak": ""})
	w.round(nil)
	if w.verdict() != attest.Failed || w.state.QuoteBacked {
		t.Fatalf("%s after %d failures", w.verdict(), w.state.Flaps)
	}
	return w
}

func TestHeldFailure(t *testing.T) {
	for name, tt := range map[string]struct {
		next func(w *world)
		want attest.Verdict
		why  attest.FailureID
	}{
		"a good answer":                 {func(*world) {}, attest.Failed, attest.QuoteSignatureInvalid},
		"good answers for a while":      {func(w *world) { w.pass(firstHold) }, attest.Trusted, ""},
		"what a quote proves":           {func(w *world) { w.box.Run("/usr/bin/evil", "") }, attest.Failed, attest.FileNotInPolicy},
		"a person's reattest":           {func(w *world) { w.step(Asked{Now: w.now, Act: Reattest}) }, attest.Trusted, ""},
		"the clock was set back":        {func(w *world) { w.now = w.now.Add(-time.Hour); w.next = 0 }, attest.Trusted, ""},
		"a day later, one more":         {func(w *world) { w.pass(flapMemory); w.round(nil); w.round(boxtest.Faults{"other-ak": ""}) }, attest.Trusted, ""},
		"refused again in the meantime": {func(w *world) { w.pass(firstHold - 40*time.Second); w.round(boxtest.Faults{"other-ak": ""}) }, attest.Failed, attest.QuoteSignatureInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			w := flapping(t)
			tt.next(w)
			w.round(nil)
			if got := w.verdict(); got != tt.want || tt.why != "" && !slices.Equal(ids(w.state.Failures), []attest.FailureID{tt.why}) {
				t.Errorf("%s by %v, want %s by %s", got, w.state.Failures, tt.want, tt.why)
			}
		})
	}
}

func TestHoldDoubles(t *testing.T) {
	var got []string
	for _, flaps := range []int{1, freeFlaps, freeFlaps + 1, freeFlaps + 2, freeFlaps + 5, freeFlaps + 6, 1 << 30} {
		got = append(got, fmt.Sprint(State{Flaps: flaps}.hold()))
	}
	if want := []string{"0s", "0s", "2m0s", "4m0s", "32m0s", "1h0m0s", "1h0m0s"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
