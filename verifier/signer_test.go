package verifier

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// Of the AKs that gave way, the last 8 are known; a quote of an older one is answered as gone and not with a key that did not sign it.
func TestSignerIsForgotten(t *testing.T) {
	b := boxtest.New(t)
	asked := boxtest.Ask{Nonce: "ABCDEFGHIJKLMNOPQRST", Selection: pcr.Select(attest.SHA256, 0, 10), Full: true}
	q := machine.StoredQuote{Packed: b.Answer(asked, nil).Quote, Nonce: asked.Nonce, Bank: asked.Selection.Bank, Mask: asked.Selection.Mask}
	own, other := b.Signer.Public(), b.Other.Public()
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
