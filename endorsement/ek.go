package endorsement

import (
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// EK is the public part of an endorsement key: a claim. Roots.Check ties it to a vendor, an activated credential to the TPM that holds it.
type EK struct {
	public publicArea
	key    crypto.PublicKey
	keyAlg string
	spki   []byte
}

// ParseEK reads a TPM2B_PUBLIC of a restricted decryption key that is fixed to its TPM: RSA of 2048 to 4096 bits, P-256 or P-384, with AES
// in CFB mode and a SHA-2 name (the templates L and H of the EK Credential Profile, section B).
func ParseEK(tpm2bPublic []byte) (EK, error) {
	public, err := parsePublic(tpm2bPublic)
	if err != nil {
		return EK{}, fmt.Errorf("endorsement key: %w", err)
	}
	a := public.area.ObjectAttributes
	if !a.Restricted || !a.Decrypt || a.SignEncrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return EK{}, fmt.Errorf("endorsement key: not a restricted decryption key that was made in its TPM and is fixed to it")
	}
	if h := attest.Hash(public.area.NameAlg); !strong(h) {
		return EK{}, fmt.Errorf("endorsement key: name algorithm %s is weaker than sha256 or unknown", h)
	}
	if s := public.symmetric(); s.Algorithm != tpm2.TPMAlgAES {
		return EK{}, fmt.Errorf("endorsement key: symmetric algorithm %#04x is not AES", uint16(s.Algorithm))
	}
	key, keyAlg, err := public.key()
	if err != nil {
		return EK{}, fmt.Errorf("endorsement key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return EK{}, fmt.Errorf("endorsement key: %w", err)
	}
	return EK{public: public, key: key, keyAlg: keyAlg, spki: spki}, nil
}

// Valid reports whether ParseEK made this key.
func (ek EK) Valid() bool { return ek.key != nil }

// Public returns the TPM2B_PUBLIC as it was given to ParseEK.
func (ek EK) Public() []byte { return slices.Clone(ek.public.raw) }

// SPKI returns the key's SubjectPublicKeyInfo in DER.
func (ek EK) SPKI() []byte { return slices.Clone(ek.spki) }

// ID returns the default agent id of the key's owner: Keylime's hash_ek.
func (ek EK) ID() attest.AgentID { return attest.EKHash(ek.spki) }

// Key returns the *rsa.PublicKey or *ecdsa.PublicKey.
func (ek EK) Key() crypto.PublicKey { return ek.key }

// QualifiedChild returns the qualified name of an AK that is a child of this EK, the EK being a primary key of the endorsement hierarchy
// (TPM 2.0 Part 1, "Qualified Name"): QN = H(QN of the parent || name), and a primary key's parent is the handle of its hierarchy. A quote names
// its signer so; one that names this shows the TPM's counters as they are, without the offset that keys of the owner have. It returns nil for
// keys that are not valid.
func (ek EK) QualifiedChild(ak AK) []byte {
	if !ek.Valid() || !ak.Valid() {
		return nil
	}
	hierarchy := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHEndorsement))
	return qualified(qualified(hierarchy, ek.public.name()), ak.Name())
}

// qualified hashes with the algorithm that stands before the name of the key itself.
func qualified(parent, name []byte) []byte {
	h := attest.Hash(binary.BigEndian.Uint16(name))
	return append(binary.BigEndian.AppendUint16(nil, uint16(h)), h.Sum(parent, name).Bytes()...)
}

// KeyAlgorithm returns Keylime's name of the key type, "rsa2048" or "ecc256".
func (ek EK) KeyAlgorithm() string { return ek.keyAlg }

func (p publicArea) symmetric() tpm2.TPMTSymDefObject {
	if params, err := p.area.Parameters.RSADetail(); err == nil {
		return params.Symmetric
	}
	if params, err := p.area.Parameters.ECCDetail(); err == nil {
		return params.Symmetric
	}
	return tpm2.TPMTSymDefObject{}
}
