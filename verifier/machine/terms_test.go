package machine

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// A caller that forgets what it has to say gets no Trusted by it: every part of Terms and Subject that is left out fails, and the same
// evidence passes with it.
func TestZeroTermsLetNothingPass(t *testing.T) {
	for name, tt := range map[string]struct {
		forget func(*Subject)
		want   attest.FailureID
		backed bool
	}{
		"Terms":          {func(who *Subject) { who.Terms = Terms{} }, attest.EkNotEndorsed, true},
		"Terms.Endorsed": {func(who *Subject) { who.Terms.Endorsed = Word{} }, attest.EkNotEndorsed, true},
		"Terms.Enrolled": {func(who *Subject) { who.Terms.Enrolled = Word{} }, attest.EkNotEndorsed, false},
		"AK":             {func(who *Subject) { who.AK = Subject{}.AK }, attest.AkUnknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, boxtest.Document(t, "base"))
			whole := w.who
			tt.forget(&w.who)
			w.round(nil)
			if w.verdict() != attest.Failed || w.state.QuoteBacked != tt.backed || !slices.Equal(ids(w.state.Failures), []attest.FailureID{tt.want}) {
				t.Errorf("%s, backed by a quote: %t, %v; want %s", w.verdict(), w.state.QuoteBacked, w.state.Failures, tt.want)
			}
			w.state, w.who = State{}, whole
			if w.round(nil); w.verdict() != attest.Trusted {
				t.Errorf("with it: %s: %v", w.verdict(), w.state.Failures)
			}
		})
	}
}

func TestZeroTermsReadmitNobody(t *testing.T) {
	for name, tt := range map[string]struct {
		readmits bool
		want     attest.Verdict
	}{"left out": {false, attest.Failed}, "said": {true, attest.Trusted}} {
		w := newWorld(t, boxtest.Document(t, "base"))
		w.who.Terms.Readmits = tt.readmits
		w.round(nil)
		if w.round(boxtest.Faults{"no-list": ""}); !w.state.FailedByQuote() {
			t.Fatalf("without a list: %s", w.verdict())
		}
		w.box.Reset()
		w.round(nil) // asks for the list from its start
		if w.round(nil); w.verdict() != tt.want {
			t.Errorf("%s: after a new boot %s, want %s", name, w.verdict(), tt.want)
		}
	}
}

func TestWord(t *testing.T) {
	if doubt := Counts().Doubt(); doubt != nil {
		t.Errorf("a word that counts: %v", doubt)
	}
	if doubt := (Word{}).Doubt(); doubt == nil || doubt.ID != attest.EkNotEndorsed || !strings.Contains(doubt.Detail, "Nobody found out") {
		t.Errorf("the zero Word: %v", doubt)
	}
	if doubt := Doubted(attest.Fail(attest.AkUnknown, "why")).Doubt(); doubt == nil || doubt.ID != attest.AkUnknown {
		t.Errorf("a doubted word: %v", doubt)
	}
	if Doubted(attest.Failure{}).Doubt() == nil {
		t.Error("a doubt without a failure counts")
	}
}
