package machine

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// Stored evidence that is not whole decides nothing: the next round does, and nothing is Trusted or Failed by it meanwhile.
func TestStoredEvidenceThatIsNotEnough(t *testing.T) {
	good := func(t *testing.T) *world {
		w := newWorld(t)
		w.box.Run("/usr/bin/a", "")
		w.round(nil)
		return w
	}
	tests := map[string]func(*world, *Stored){
		"no quote":                  func(_ *world, s *Stored) { s.Quote = StoredQuote{} },
		"a quote of another AK":     func(w *world, s *Stored) { w.who.AK = w.box.Other.AK() },
		"another nonce":             func(_ *world, s *Stored) { s.Quote.Nonce = "another" },
		"a quote of another boot":   func(_ *world, s *Stored) { s.Quote.Boot = "another" },
		"a request of less":         func(_ *world, s *Stored) { s.Quote.Mask &^= 1 << 7 },
		"a request of another bank": func(_ *world, s *Stored) { s.Quote.Bank = attest.SHA1 },
		"no list":                   func(_ *world, s *Stored) { s.List = nil },
		"a part of the list":        func(_ *world, s *Stored) { s.List = s.List[:len(s.List)/2] },
		"a list behind the quote": func(w *world, s *Stored) {
			w.box.Run("/usr/bin/a", "")
			w.round(boxtest.Faults{"no-list": ""})
			*s = Stored{Quote: *w.shelf.quote, List: s.List, BootLog: s.BootLog}
		},
		"a list beyond the state":           func(w *world, _ *Stored) { w.state.IMA.Position-- },
		"an event log that does not replay": func(w *world, s *Stored) { s.BootLog = boxtest.ChangedLog(w.t, s.BootLog) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			base := boxtest.Document(t, "base", "/usr/bin/a")
			w := good(t)
			stored := *w.shelf.stored(w.state.Boot)
			spoil(w, &stored)
			w.who.Policies = append(w.who.Policies, base)
			w.step(PoliciesChanged{Now: w.now, Stored: &stored})
			if w.verdict() != attest.Pending || !w.state.whole() {
				t.Errorf("%s, asks from the start %t: %v", w.verdict(), w.state.whole(), w.state.Failures)
			}
			w = good(t)
			if w.change(base); w.verdict() != attest.Trusted {
				t.Errorf("without the fault: %s %v", w.verdict(), w.state.Failures)
			}
		})
	}
	w := good(t)
	w.who.Policies = append(w.who.Policies, boxtest.Document(t, "base", "/usr/bin/a"))
	if w.step(PoliciesChanged{Now: w.now}); w.verdict() != attest.Pending {
		t.Errorf("without stored evidence: %s", w.verdict())
	}
	if w.round(nil); w.verdict() != attest.Trusted {
		t.Errorf("after the next round: %s %v", w.verdict(), w.state.Failures)
	}
}
