package machine

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// The counters that a key of the owner's hierarchy showed say nothing about a child of the EK that comes after it: with a suitable offset
// the same boot would look like a later one.
func TestReimageAfterAKeyOfTheOwner(t *testing.T) {
	for name, tt := range map[string]struct {
		owned bool
		boot  func(*boxtest.Box)
		want  attest.Verdict
	}{
		"after the owner's key, in the same boot":  {true, func(*boxtest.Box) {}, attest.Failed},
		"after the owner's key, and a new boot":    {true, (*boxtest.Box).Reset, attest.Failed},
		"after a child of the EK, and a new boot":  {false, (*boxtest.Box).Reset, attest.Trusted},
		"after a child of the EK, in the same one": {false, func(*boxtest.Box) {}, attest.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, boxtest.Document(t, "base"))
			if tt.owned {
				w.box.Owned, w.box.Offset = true, ^uint32(0)
			}
			w.round(nil)
			if w.verdict() != attest.Trusted {
				t.Fatalf("at first %s: %v", w.verdict(), w.state.Failures)
			}
			if w.round(boxtest.Faults{"no-list": ""}); !w.state.FailedByQuote() {
				t.Fatalf("without a list %s: %v", w.verdict(), w.state.Failures)
			}
			tt.boot(w.box)
			w.box.Reimage()
			w.reimage()
			w.round(nil)
			if w.verdict() != tt.want {
				t.Errorf("the new key's evidence: %s, want %s: %v", w.verdict(), tt.want, w.state.Failures)
			}
			w.box.Reset()
			w.round(nil)
			if w.round(nil); w.verdict() != attest.Trusted {
				t.Errorf("after a boot of the new key: %s %v", w.verdict(), w.state.Failures)
			}
		})
	}
}

// A machine that was installed anew has another transport key too.
func TestReimageWithAnotherTransportKey(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.round(nil)
	w.box.Reimage()
	w.box.Key = "PEM of the second key\n"
	w.reimage()
	if w.round(nil); w.verdict() != attest.Trusted || w.state.TransportKey != w.box.Key {
		t.Errorf("%s with key %q: %v", w.verdict(), w.state.TransportKey, w.state.Failures)
	}
}
