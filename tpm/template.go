package tpm

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-project/assay/attest"
)

// Algorithm is a kind of key by Keylime's name.
type Algorithm string

// The kinds of endorsement keys; RSA2048 and ECC256 are also the kinds of attestation keys.
const (
	RSA2048 Algorithm = "rsa2048"
	RSA3072 Algorithm = "rsa3072"
	ECC256  Algorithm = "ecc256"
	ECC384  Algorithm = "ecc384"
)

// sessionNonceBytes is the size of the nonces of a policy session.
const sessionNonceBytes = 16

// ekKind is one row of the TCG's default EK templates (EK Credential Profile, level 0 version 2.5, annex B).
type ekKind struct {
	certificate tpm2.TPMHandle // the NV index of its certificate
	nameAlg     tpm2.TPMAlgID
	highRange   bool // templates H: PolicyOR, no padding of the unique field
	aesBits     tpm2.TPMKeyBits
	rsaBits     tpm2.TPMKeyBits
	curve       tpm2.TPMECCCurve
}

func kindOf(alg Algorithm) (ekKind, error) {
	switch alg {
	case RSA2048: // L-1
		return ekKind{certificate: 0x01c00002, nameAlg: tpm2.TPMAlgSHA256, aesBits: 128, rsaBits: 2048}, nil
	case ECC256: // L-2
		return ekKind{certificate: 0x01c0000a, nameAlg: tpm2.TPMAlgSHA256, aesBits: 128, curve: tpm2.TPMECCNistP256}, nil
	case ECC384: // H-3
		return ekKind{certificate: 0x01c00016, nameAlg: tpm2.TPMAlgSHA384, highRange: true, aesBits: 256, curve: tpm2.TPMECCNistP384}, nil
	case RSA3072: // H-6
		return ekKind{certificate: 0x01c0001c, nameAlg: tpm2.TPMAlgSHA384, highRange: true, aesBits: 256, rsaBits: 3072}, nil
	}
	return ekKind{}, fmt.Errorf("no endorsement key of kind %q; known are %s, %s, %s, %s", alg, RSA2048, RSA3072, ECC256, ECC384)
}

// template returns the public area that TPM2_CreatePrimary derives the key from.
func (k ekKind) template() tpm2.TPMTPublic {
	symmetric := tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, k.aesBits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
	area := tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: k.nameAlg,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: k.highRange, AdminWithPolicy: true, Restricted: true, Decrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: k.policy()},
	}
	padding := 0
	if k.rsaBits != 0 {
		area.Type = tpm2.TPMAlgRSA
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: symmetric, KeyBits: k.rsaBits})
		if !k.highRange {
			padding = int(k.rsaBits) / 8
		}
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: make([]byte, padding)})
		return area
	}
	if !k.highRange {
		padding = 32
	}
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: symmetric, CurveID: k.curve})
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: make([]byte, padding)}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, padding)},
	})
	return area
}

// policy returns the key's authorisation policy: PolicySecret(endorsement), in the high range or PolicyC.
func (k ekKind) policy() []byte {
	if !k.highRange {
		return k.policyA()
	}
	h := attest.Hash(k.nameAlg)
	return h.Sum(make([]byte, h.Size()), word(tpm2.TPMCCPolicyOR), k.policyA(), policyC()).Bytes()
}

// policyA is the policy digest after PolicySecret(endorsement): extended by command and entity name, then by the empty policyRef.
func (k ekKind) policyA() []byte {
	h := attest.Hash(k.nameAlg)
	entity := h.Sum(make([]byte, h.Size()), word(tpm2.TPMCCPolicySecret), word(tpm2.TPMRHEndorsement))
	return h.Sum(entity.Bytes()).Bytes()
}

// policyC is the other branch of the high-range policy with SHA-384, PolicyAuthorizeNV of an index that owners may define (annex B.6.5).
func policyC() []byte {
	digest, err := hex.DecodeString("d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165")
	if err != nil {
		panic(err) // a constant
	}
	return digest
}

func word[W ~uint32](value W) []byte { return binary.BigEndian.AppendUint32(nil, uint32(value)) }

// session returns a one-time policy session that authorises use of the key by the endorsement hierarchy. Unlike its (empty) password it does not count as an attempt for the
// dictionary-attack protection, which after a few power cuts would lock the key.
func (k ekKind) session(endorsement tpm2.AuthHandle) tpm2.Session {
	return tpm2.Policy(k.nameAlg, sessionNonceBytes, func(device transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		if _, err := (tpm2.PolicySecret{AuthHandle: endorsement, PolicySession: session, NonceTPM: nonce}).Execute(device); err != nil {
			return fmt.Errorf("authorise by the endorsement hierarchy: %w", err)
		}
		if !k.highRange {
			return nil
		}
		branches := tpm2.TPMLDigest{Digests: []tpm2.TPM2BDigest{{Buffer: k.policyA()}, {Buffer: policyC()}}}
		if _, err := (tpm2.PolicyOr{PolicySession: session, PHashList: branches}).Execute(device); err != nil {
			return fmt.Errorf("choose the policy branch: %w", err)
		}
		return nil
	})
}
