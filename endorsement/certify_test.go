package endorsement

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// certification returns the TPMS_ATTEST of TPM2_Certify.
func certification(name, qualifying []byte) []byte {
	return tpm2.Marshal(tpm2.TPMSAttest{
		Magic:           tpm2.TPMGeneratedValue,
		Type:            tpm2.TPMSTAttestCertify,
		QualifiedSigner: tpm2.TPM2BName{Buffer: bytes.Repeat([]byte{1}, 34)},
		ExtraData:       tpm2.TPM2BData{Buffer: qualifying},
		ClockInfo:       tpm2.TPMSClockInfo{Clock: 4711, ResetCount: 2, Safe: true},
		FirmwareVersion: 0x20191023,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{
			Name: tpm2.TPM2BName{Buffer: name}, QualifiedName: tpm2.TPM2BName{Buffer: bytes.Repeat([]byte{2}, 34)},
		}),
	})
}

func TestVerifyCertify(t *testing.T) {
	challenge := []byte("a challenge of 32 bytes, exactly")
	s, other := newSigner(t, ECDSA, attest.SHA256), newSigner(t, ECDSA, attest.SHA256)
	good := certification(s.ak.Name(), challenge)
	if err := VerifyCertify(s.ak, good, s.sign(t, good), challenge); err != nil {
		t.Fatal(err)
	}
	magic, kind := bytes.Clone(good), bytes.Clone(good)
	magic[0] = 0
	binary.BigEndian.PutUint16(kind[4:], 0x8018)
	for name, attested := range map[string][]byte{
		"magic":         magic,
		"type of quote": kind,
		"challenge":     certification(s.ak.Name(), []byte("the challenge of another session")),
		"no challenge":  certification(s.ak.Name(), nil),
		"object":        certification(other.ak.Name(), challenge),
	} {
		if err := VerifyCertify(s.ak, attested, s.sign(t, attested), challenge); !errors.Is(err, ErrNotProven) {
			t.Errorf("other %s: %v, expected ErrNotProven", name, err)
		}
	}
	if err := VerifyCertify(s.ak, good, other.sign(t, good), challenge); !errors.Is(err, ErrSignatureInvalid) {
		t.Errorf("other signer: %v, expected ErrSignatureInvalid", err)
	}
	for name, attested := range map[string][]byte{"trailing byte": append(bytes.Clone(good), 0), "cut off": good[:len(good)-1]} {
		err := VerifyCertify(s.ak, attested, s.sign(t, attested), challenge)
		if err == nil || errors.Is(err, ErrNotProven) || errors.Is(err, ErrSignatureInvalid) {
			t.Errorf("%s: %v, expected a parse error", name, err)
		}
	}
}

// The signature is checked first, so the fuzzer signs what it invents: the parser behind it must hold too.
func FuzzVerifyCertify(f *testing.F) {
	s := newSigner(f, ECDSA, attest.SHA256)
	challenge := []byte("challenge")
	good := certification(s.ak.Name(), challenge)
	f.Add(good)
	f.Add(good[:50])
	f.Fuzz(func(t *testing.T, attested []byte) {
		if VerifyCertify(s.ak, attested, s.sign(t, attested), challenge) == nil && !bytes.Contains(attested, s.ak.Name()) {
			t.Fatalf("accepted %x", attested)
		}
	})
}
