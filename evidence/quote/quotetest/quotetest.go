// Package quotetest makes quotes for tests: a TPM's part in software, with a key that each test makes for itself.
//
// A quote made here is a real TPMS_ATTEST with a real signature, and goes through quote.Parse and quote.Verify like any other: there is
// no back door into quote.Verified. What a real TPM would refuse to sign can be made here too, for negative tests.
package quotetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// Kind is a kind of attestation key.
type Kind int

// The kinds of keys that a Signer makes. RSA-2048 with RSASSA is what Keylime's agents make by default.
const (
	RSASSA2048 Kind = iota // RSA-2048, RSASSA, SHA-256
	RSAPSS2048             // RSA-2048, RSAPSS, SHA-256
	ECDSAP256              // P-256, ECDSA, SHA-256
	ECDSAP384              // P-384, ECDSA, SHA-384
)

// akAttributes: restricted, sign, fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth (TPM 2.0 Part 2, 8.3).
const akAttributes = 0x50072

// Identifiers of the TCG Algorithm Registry.
const (
	algRSA    = 0x0001
	algNull   = 0x0010
	algRSASSA = 0x0014
	algRSAPSS = 0x0016
	algECDSA  = 0x0018
	algECC    = 0x0023
)

// Signer is an attestation key in software.
type Signer struct {
	t      testing.TB
	kind   Kind
	key    crypto.Signer
	public []byte
	ak     endorsement.AK
}

// NewSigner makes a key. It ends the test if that cannot be done.
func NewSigner(t testing.TB, kind Kind) *Signer {
	t.Helper()
	s := &Signer{t: t, kind: kind}
	var err error
	switch kind {
	case RSASSA2048, RSAPSS2048:
		s.key, err = rsa.GenerateKey(rand.Reader, 2048)
	case ECDSAP256:
		s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		s.key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		t.Fatalf("quotetest: kind %d", kind)
	}
	if err != nil {
		t.Fatalf("quotetest: make a key: %v", err)
	}
	s.public = publicArea(t, kind, s.key.Public())
	ak, failures, err := endorsement.ParseAK(s.public)
	if err != nil || len(failures) > 0 {
		t.Fatalf("quotetest: the made key is no AK: %v %v", failures, err)
	}
	s.ak = ak
	return s
}

// AK returns the key as the verifier enrolled it.
func (s *Signer) AK() endorsement.AK { return s.ak }

// Public returns the key's TPM2B_PUBLIC.
func (s *Signer) Public() []byte { return append([]byte(nil), s.public...) }

// Key returns the private key, for what this package does not sign.
func (s *Signer) Key() crypto.Signer { return s.key }

// Scheme returns the key's signature scheme and hash.
func (s *Signer) Scheme() (scheme uint16, hash attest.Hash) { return s.kind.scheme() }

func (k Kind) scheme() (scheme uint16, hash attest.Hash) {
	switch k {
	case RSAPSS2048:
		return algRSAPSS, attest.SHA256
	case ECDSAP256:
		return algECDSA, attest.SHA256
	case ECDSAP384:
		return algECDSA, attest.SHA384
	}
	return algRSASSA, attest.SHA256
}

// publicArea encodes a TPM2B_PUBLIC (TPM 2.0 Part 2, 12.2.4 and 12.2.5).
func publicArea(t testing.TB, kind Kind, key crypto.PublicKey) []byte {
	t.Helper()
	scheme, hash := kind.scheme()
	var area []byte
	u16 := func(values ...int) {
		for _, v := range values {
			area = binary.BigEndian.AppendUint16(area, uint16(v))
		}
	}
	head := func(algorithm int) {
		u16(algorithm, int(attest.SHA256))
		area = binary.BigEndian.AppendUint32(area, akAttributes)
		u16(0, algNull, int(scheme), int(hash))
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		head(algRSA)
		u16(key.N.BitLen(), 0, 0) // exponent 0 is 65537
		area = appendSized(area, key.N.Bytes())
	case *ecdsa.PublicKey:
		head(algECC)
		curve := map[elliptic.Curve]int{elliptic.P256(): 3, elliptic.P384(): 4}[key.Curve]
		u16(curve, algNull)
		point, err := key.Bytes()
		if err != nil {
			t.Fatalf("quotetest: encode the public point: %v", err)
		}
		half := len(point) / 2 // after the leading 4 of the uncompressed form
		area = appendSized(area, point[1:1+half])
		area = appendSized(area, point[1+half:])
	}
	return appendSized(nil, area)
}

func appendSized(to, field []byte) []byte {
	return append(binary.BigEndian.AppendUint16(to, uint16(len(field))), field...)
}

// Verified returns a verified quote over values, the first of its key.
func Verified(t testing.TB, values pcr.Values, clock quote.Clock) quote.Verified {
	t.Helper()
	signer := NewSigner(t, ECDSAP256)
	nonce := []byte("quotetest nonce")
	parsed, err := quote.Parse(signer.Quote(Options{Nonce: nonce, Values: values, Clock: clock}))
	if err != nil {
		t.Fatalf("quotetest: %v", err)
	}
	verified, failures := quote.Verify(parsed, quote.Expected{AK: signer.AK(), Nonce: nonce, Selection: values.Selection()})
	if len(failures) > 0 {
		t.Fatalf("quotetest: the made quote does not verify: %v", failures)
	}
	return verified
}
