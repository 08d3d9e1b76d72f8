package verifier

import (
	"testing"

	"github.com/assay-project/assay/attest"
)

// The counters that a key of the owner's hierarchy showed say nothing about a child of the EK that comes after it: with a suitable offset
// the same boot would look like a later one.
func TestReimageAfterAKeyOfTheOwner(t *testing.T) {
	for name, tt := range map[string]struct {
		owned bool
		boot  func(*box)
		want  attest.Verdict
	}{
		"after the owner's key, in the same boot":  {true, func(*box) {}, attest.Failed},
		"after the owner's key, and a new boot":    {true, (*box).reset, attest.Failed},
		"after a child of the EK, and a new boot":  {false, (*box).reset, attest.Trusted},
		"after a child of the EK, in the same one": {false, func(*box) {}, attest.Failed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, document(t, "base"))
			if tt.owned {
				w.box.owned, w.box.offset = true, ^uint32(0)
			}
			w.round(nil)
			if w.verdict() != attest.Trusted {
				t.Fatalf("at first %s: %v", w.verdict(), w.state.Failures)
			}
			if w.round(faults{"no-list": ""}); !w.state.failedByQuote() {
				t.Fatalf("without a list %s: %v", w.verdict(), w.state.Failures)
			}
			tt.boot(w.box)
			w.box.reimage()
			w.reimage()
			w.round(nil)
			if w.verdict() != tt.want {
				t.Errorf("the new key's evidence: %s, want %s: %v", w.verdict(), tt.want, w.state.Failures)
			}
			w.box.reset()
			w.round(nil)
			if w.round(nil); w.verdict() != attest.Trusted {
				t.Errorf("after a boot of the new key: %s %v", w.verdict(), w.state.Failures)
			}
		})
	}
}

// A machine that was installed anew has another transport key too.
func TestReimageWithAnotherTransportKey(t *testing.T) {
	w := newWorld(t, document(t, "base"))
	w.round(nil)
	w.box.reimage()
	w.box.key = "PEM of the second key\n"
	w.reimage()
	if w.round(nil); w.verdict() != attest.Trusted || w.state.TransportKey != w.box.key {
		t.Errorf("%s with key %q: %v", w.verdict(), w.state.TransportKey, w.state.Failures)
	}
}
