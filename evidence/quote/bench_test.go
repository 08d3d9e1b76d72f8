package quote_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
	"slices"
	"syscall"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/evidence/quote/quotetest"
)

var benchKinds = map[string]quotetest.Kind{"rsa2048": quotetest.RSASSA2048, "p256": quotetest.ECDSAP256}

func benchQuote(b *testing.B, kind quotetest.Kind) (*quotetest.Signer, quote.Raw, quote.Expected) {
	b.Helper()
	signer := quotetest.NewSigner(b, kind)
	selection := pcr.Select(attest.SHA256, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14)
	last := quote.Clock{Clock: 1000, ResetCount: 1, Safe: true}
	key := []byte("-----BEGIN PUBLIC KEY-----\n")
	raw := signer.Quote(quotetest.Options{
		Nonce: []byte("01234567890123456789"), Values: pcr.Values{Bank: attest.SHA256}, Selection: selection,
		Clock: quote.Clock{Clock: 2000, ResetCount: 1, Safe: true}, TransportKey: key,
	})
	return signer, raw, quote.Expected{
		AK: signer.AK(), Nonce: []byte("01234567890123456789"), Selection: selection, Last: &last, TransportKey: key, TransportKnown: key,
	}
}

// benchBatch is how many quotes are verified in one turn: enough for the processor's clock, which counts microseconds.
const benchBatch = 20

// BenchmarkVerify compares one whole round (parsing and every check) with what cannot be saved, the hash of the structure and the check of
// the signature. Its aim is at most 1.3 times that. The two take turns, so that a busy machine disturbs them alike; it reports the medians of
// the turns.
func BenchmarkVerify(b *testing.B) {
	for name, kind := range benchKinds {
		b.Run(name, func(b *testing.B) {
			signer, raw, want := benchQuote(b, kind)
			parts := map[string][]float64{}
			for b.Loop() {
				bare := taken(b, func() { bareRound(b, signer, raw) })
				verify := taken(b, func() { verifyRound(b, raw, want) })
				parts["verify/bare"] = append(parts["verify/bare"], verify/bare)
				parts["ns/verify"] = append(parts["ns/verify"], verify)
				parts["ns/bare"] = append(parts["ns/bare"], bare)
			}
			for unit, values := range parts {
				slices.Sort(values)
				b.ReportMetric(values[len(values)/2], unit)
			}
			b.ReportMetric(0, "ns/op") // of both and all turns, which says nothing
		})
	}
}

// taken returns the processor time of one of benchBatch runs of a part, the collection of its garbage included. The clock on the wall also counts the
// time in which others ran.
func taken(b *testing.B, part func()) (nanoseconds float64) {
	before := processorTime(b)
	for range benchBatch {
		part()
	}
	return (processorTime(b) - before) / benchBatch
}

func processorTime(b *testing.B) (nanoseconds float64) {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return float64(usage.Utime.Nano() + usage.Stime.Nano())
}

func verifyRound(b *testing.B, raw quote.Raw, want quote.Expected) {
	parsed, err := quote.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	if _, failures := quote.Verify(parsed, want); len(failures) > 0 {
		b.Fatal(failures)
	}
}

func bareRound(b *testing.B, signer *quotetest.Signer, raw quote.Raw) {
	digest := sha256.Sum256(raw.Attest)
	if !bareVerify(signer.AK().Key(), digest[:], raw.Signature[6:]) { // after scheme, hash and the first length
		b.Fatal("the signature does not verify")
	}
}

func bareVerify(key crypto.PublicKey, digest, signature []byte) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, crypto.SHA256, digest, signature) == nil
	case *ecdsa.PublicKey:
		r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[34:])
		return ecdsa.Verify(key, digest, r, s)
	}
	return false
}
