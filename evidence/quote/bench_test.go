package quote_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"math/big"
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

// BenchmarkVerify is one whole round: parsing and every check. Its aim is at most 1.3 times BenchmarkBareSignature.
func BenchmarkVerify(b *testing.B) {
	for name, kind := range benchKinds {
		b.Run(name, func(b *testing.B) {
			_, raw, want := benchQuote(b, kind)
			b.ReportAllocs()
			for b.Loop() {
				parsed, err := quote.Parse(raw)
				if err != nil {
					b.Fatal(err)
				}
				if _, failures := quote.Verify(parsed, want); len(failures) > 0 {
					b.Fatal(failures)
				}
			}
		})
	}
}

// BenchmarkBareSignature is what cannot be saved: the hash of the structure and the check of the signature.
func BenchmarkBareSignature(b *testing.B) {
	for name, kind := range benchKinds {
		b.Run(name, func(b *testing.B) {
			signer, raw, _ := benchQuote(b, kind)
			signature := raw.Signature[6:] // after scheme, hash and the first length
			b.ReportAllocs()
			for b.Loop() {
				digest := sha256.Sum256(raw.Attest)
				if !bareVerify(signer.AK().Key(), digest[:], signature) {
					b.Fatal("the signature does not verify")
				}
			}
		})
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
