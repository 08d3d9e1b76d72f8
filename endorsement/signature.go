package endorsement

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/assay-project/assay/attest"
)

// ErrSignatureInvalid says that a well-formed signature does not verify with the AK.
var ErrSignatureInvalid = errors.New("signature does not verify")

// VerifySignature checks a TPMT_SIGNATURE (TPM 2.0 Part 2, section 11.3.4) over message, with no bytes after it. Its scheme and hash must be the
// AK's own. It returns ErrSignatureInvalid, wrapped, for every signature that is well formed but not this key's, and another error for bytes that are
// no signature.
func (ak AK) VerifySignature(message, signature []byte) error {
	if !ak.Valid() {
		return fmt.Errorf("verify signature: no attestation key")
	}
	r := reader{rest: signature}
	scheme, hash := SignAlgorithm(r.uint16()), attest.Hash(r.uint16())
	first := r.sized()
	var second []byte
	if scheme == ECDSA {
		second = r.sized()
	}
	if err := r.end(); err != nil {
		return fmt.Errorf("parse TPMT_SIGNATURE: %w", err)
	}
	if scheme != ak.scheme || hash != ak.hash {
		return fmt.Errorf("%w: it is %s with %s, the key's scheme is %s with %s", ErrSignatureInvalid, scheme, hash, ak.scheme, ak.hash)
	}
	if !ak.signed(ak.hash.Sum(message).Bytes(), first, second) {
		return ErrSignatureInvalid
	}
	return nil
}

// signed checks a signature over a digest: first is the RSA signature or ECDSA's r, second is ECDSA's s.
func (ak AK) signed(digest, first, second []byte) bool {
	switch key := ak.key.(type) {
	case *rsa.PublicKey:
		if ak.scheme == RSAPSS {
			// The salt length is the TPM's choice: Part 1, annex B.7, gives the largest that fits, FIPS mode the size of the hash.
			return rsa.VerifyPSS(key, ak.hash.Crypto(), digest, first, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		}
		return rsa.VerifyPKCS1v15(key, ak.hash.Crypto(), digest, first) == nil
	case *ecdsa.PublicKey:
		if size := key.Curve.Params().BitSize / 8; len(first) > size || len(second) > size {
			return false // leading zeros would be bytes that decide nothing
		}
		return ecdsa.Verify(key, digest, new(big.Int).SetBytes(first), new(big.Int).SetBytes(second))
	}
	return false
}

// reader takes big-endian TPM fields off a byte string. After the first short read every field is zero and end reports where it happened.
type reader struct {
	rest   []byte
	offset int
	short  bool
}

func (r *reader) take(n int) []byte {
	if r.short || len(r.rest) < n {
		r.short = true
		return nil
	}
	taken := r.rest[:n]
	r.rest, r.offset = r.rest[n:], r.offset+n
	return taken
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// sized takes a TPM2B; the result shares the input's memory.
func (r *reader) sized() []byte { return r.take(int(r.uint16())) }

func (r *reader) end() error {
	if r.short {
		return fmt.Errorf("cut off at offset %d", r.offset)
	}
	if len(r.rest) > 0 {
		return fmt.Errorf("%d bytes after the structure, at offset %d", len(r.rest), r.offset)
	}
	return nil
}
