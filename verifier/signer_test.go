package verifier

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// Of the AKs that gave way, the last 8 are known; a quote of an older one is answered as gone and not with a key that did not sign it.
func TestSignerIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.round(nil)
	q := *w.shelf.quote
	own, other := w.box.Signer.Public(), w.box.Other.Public()
	if have, err := (Enrolment{AK: other, Former: [][]byte{[]byte("no key"), own}}).Signer(q); err != nil || !bytes.Equal(have, own) {
		t.Errorf("have %x, %v", have, err)
	}
	if _, err := (Enrolment{AK: other}).Signer(q); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "gave way") {
		t.Errorf("have %v", err)
	}
	q.Packed = "junk"
	if _, err := (Enrolment{AK: own}).Signer(q); err == nil {
		t.Error("a quote that is none was signed")
	}
}
