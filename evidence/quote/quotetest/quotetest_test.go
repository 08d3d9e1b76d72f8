package quotetest_test

import (
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

func TestVerifiedInEveryBank(t *testing.T) {
	for _, bank := range attest.Hashes() {
		values := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{0: bank.Sum([]byte("0")), 10: bank.Sum([]byte("10"))}}
		clock := quote.Clock{Clock: 5, ResetCount: 1, Safe: true}
		verified := quotetest.Verified(t, values, clock)
		if got, _ := verified.Value(10); !verified.Valid() || got != values.Digests[10] || verified.Clock() != clock {
			t.Errorf("%s: valid %t, PCR 10 %s, %s", bank, verified.Valid(), got, verified.Clock())
		}
	}
}

// A PCR that is selected and not set has the value that a TPM starts with.
func TestQuoteFillsUnsetPCRs(t *testing.T) {
	signer := quotetest.NewSigner(t, quotetest.ECDSAP256)
	selection := pcr.Select(attest.SHA256, 9, 17)
	parsed, err := quote.Parse(signer.Quote(quotetest.Options{Nonce: []byte("n"), Values: pcr.Values{Bank: attest.SHA256}, Selection: selection}))
	if err != nil {
		t.Fatal(err)
	}
	verified, failures := quote.Verify(parsed, quote.Expected{AK: signer.AK(), Nonce: []byte("n"), Selection: selection})
	if len(failures) > 0 {
		t.Fatal(failures)
	}
	for _, p := range selection.PCRs() {
		if got, _ := verified.Value(p); got != pcr.Initial(attest.SHA256, p) {
			t.Errorf("PCR %d is %s", p, got)
		}
	}
}

func TestCertifyVerifies(t *testing.T) {
	for _, kind := range []quotetest.Kind{quotetest.RSASSA2048, quotetest.ECDSAP384} {
		signer := quotetest.NewSigner(t, kind)
		structure, signature := signer.Certify([]byte("challenge"), quote.Clock{Clock: 1})
		if err := endorsement.VerifyCertify(signer.AK(), structure, signature, []byte("challenge")); err != nil {
			t.Errorf("kind %d: %v", kind, err)
		}
		if err := endorsement.VerifyCertify(signer.AK(), structure, signature, []byte("another")); err == nil {
			t.Errorf("kind %d: another challenge was accepted", kind)
		}
	}
}
