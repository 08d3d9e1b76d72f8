package endorsement

import (
	"bytes"
	"errors"
	"fmt"
)

// What TPM2_Certify puts at the head of a TPMS_ATTEST (TPM 2.0 Part 2, sections 10.12.1 and 6.9).
const (
	generatedMagic = 0xff544347
	attestCertify  = 0x8017
	clockInfoBytes = 8 + 4 + 4 + 1
	firmwareBytes  = 8
)

// ErrNotProven says that a certification is well formed but does not prove possession of the AK for this exchange.
var ErrNotProven = errors.New("possession of the attestation key is not proven")

// VerifyCertify checks that ak was certified by itself (TPM2_Certify with the AK as object and as signer) over qualifying: signature by ak, magic,
// type, extraData equal to qualifying, certified name equal to ak's. attestBytes is a TPMS_ATTEST, signature a TPMT_SIGNATURE, both without size prefix.
//
// It returns ErrNotProven or ErrSignatureInvalid, wrapped, for well-formed bytes that prove nothing; another error for malformed ones.
func VerifyCertify(ak AK, attestBytes, signature, qualifying []byte) error {
	if err := ak.VerifySignature(attestBytes, signature); err != nil {
		return fmt.Errorf("certification: %w", err)
	}
	r := reader{rest: attestBytes}
	magic, kind := uint32(r.uint16())<<16|uint32(r.uint16()), r.uint16()
	if magic != generatedMagic || kind != attestCertify {
		return fmt.Errorf("certification: %w: magic %#08x, type %#04x, expected %#08x and %#04x", ErrNotProven, magic, kind, generatedMagic, attestCertify)
	}
	r.sized() // the qualified name of the signer depends on its place in the hierarchy, which nobody told us
	extra := r.sized()
	r.take(clockInfoBytes + firmwareBytes)
	name := r.sized()
	r.sized() // qualified name of the object
	if err := r.end(); err != nil {
		return fmt.Errorf("certification: parse TPMS_ATTEST: %w", err)
	}
	if !bytes.Equal(extra, qualifying) {
		return fmt.Errorf("certification: %w: extraData is %x, not this exchange's %x", ErrNotProven, extra, qualifying)
	}
	if !bytes.Equal(name, ak.name) {
		return fmt.Errorf("certification: %w: it certifies %x, not the attestation key %x", ErrNotProven, name, ak.name)
	}
	return nil
}
