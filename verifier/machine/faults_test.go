package machine

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// Each row is one fault of one answer. The same round without it is accepted and Trusted.
func TestFaults(t *testing.T) {
	tests := map[string]struct {
		want  attest.FailureID
		faith bool // a quote stands behind the failure
	}{
		"stale-nonce":  {attest.NonceMismatch, false},
		"other-ak":     {attest.QuoteSignatureInvalid, false},
		"extra-pcr":    {attest.PcrUnexpected, false},
		"missing-pcr":  {attest.PcrMissing, false},
		"other-bank":   {attest.BankMismatch, false},
		"two-banks":    {attest.BankMismatch, false},
		"relabel":      {attest.SelectionMismatch, false},
		"pcr-value":    {attest.PcrDigestMismatch, false},
		"trailing":     {attest.QuoteMalformed, false},
		"unbound-key":  {attest.TransportKeyMismatch, false},
		"clock-back":   {attest.ClockRollback, true},
		"resets-back":  {attest.ClockRollback, true},
		"shorter":      {attest.ListRolledBack, true},
		"without-last": {attest.ListPcrMismatch, true},
		"reorder":      {attest.ListPcrMismatch, true},
		"hide":         {attest.ListPcrMismatch, true},
		"false-hash":   {attest.TemplateHashMismatch, true},
		"garbage-list": {attest.ListMalformed, true},
		"no-list":      {attest.EvidenceMissing, true},
		"other-log":    {attest.EventLogMalformed, true},
		"changed-log":  {attest.EventLogPcrMismatch, true},
	}
	for fault, want := range tests {
		t.Run(fault, func(t *testing.T) {
			w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a", "/usr/bin/b"))
			w.round(nil)
			w.box.Run("/usr/bin/a", "")
			w.box.Run("/usr/bin/b", "")
			good := *w
			good.box = w.box.Snapshot()

			w.round(boxtest.Faults{fault: ""})
			if w.verdict() != attest.Failed || w.state.QuoteBacked != want.faith || !slices.Contains(ids(w.state.Failures), want.want) {
				t.Errorf("%s, quote-backed %t, %v; want Failed by %s", w.verdict(), w.state.QuoteBacked, w.state.Failures, want.want)
			}
			if class := want.want.Info().Class; want.faith == (class == attest.Unauthenticated) {
				t.Errorf("%s is of class %s", want.want, class)
			}
			good.round(nil)
			if good.verdict() != attest.Trusted || good.state.IMA.Position != 5 {
				t.Errorf("without the fault: %s at %d, %v", good.verdict(), good.state.IMA.Position, good.state.Failures)
			}
			w.round(nil)
			if stays := w.verdict() == attest.Failed; stays != want.faith {
				t.Errorf("after a good round: %s", w.verdict())
			}
		})
	}
}

// What is stored of one boot is bounded, by whatever steps the list grows to it.
func TestListOfABootIsBounded(t *testing.T) {
	for name, grow := range map[string]func(*world){
		"in one boot":          func(*world) {},
		"after a resume":       func(w *world) { w.box.Suspend() },
		"asked for anew":       func(w *world) { w.state.Again = true },
		"after a new boot":     func(w *world) { w.box.Reset(); w.round(nil) },
		"asked to attest anew": func(w *world) { w.step(Asked{Now: w.now, Act: Reattest}) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, boxtest.Document(t, "base", "/usr/bin/a"))
			w.round(nil)
			listed := func() uint64 { return uint64(len(strings.Join(w.box.List, ""))) }
			if w.state.ListBytes != listed() {
				t.Fatalf("%d bytes, want %d", w.state.ListBytes, listed())
			}
			grow(w)
			w.box.Run("/usr/bin/a", "")
			if w.round(nil); w.verdict() != attest.Trusted || w.state.ListBytes != listed() {
				t.Errorf("%s, %d bytes, want %d: %v", w.verdict(), w.state.ListBytes, listed(), w.state.Failures)
			}
			line, _ := boxtest.Entry("/usr/bin/a", boxtest.ContentOf("/usr/bin/a", ""))
			position := w.state.IMA.Position
			w.state.ListBytes = MaxListBytes - uint64(len(line))
			full := *w
			full.box = w.box.Snapshot()
			full.box.Run("/usr/bin/a", "")
			if full.round(nil); full.verdict() != attest.Trusted || full.state.ListBytes != MaxListBytes {
				t.Errorf("at the bound: %s, %d bytes, %v", full.verdict(), full.state.ListBytes, full.state.Failures)
			}
			w.box.Run("/usr/bin/a", "")
			w.box.Run("/usr/bin/a", "")
			if w.round(nil); w.verdict() != attest.Failed || w.state.QuoteBacked || !slices.Contains(ids(w.state.Failures), attest.EvidenceMalformed) {
				t.Errorf("beyond it: %s, %v", w.verdict(), w.state.Failures)
			}
			if w.state.IMA.Position != position {
				t.Errorf("what is beyond it was taken over, to entry %d", w.state.IMA.Position)
			}
		})
	}
}
