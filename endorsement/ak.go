package endorsement

import (
	"crypto"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// SignAlgorithm is a signature scheme by its TCG identifier (TPM_ALG_ID).
type SignAlgorithm uint16

// The schemes that an AK may have.
const (
	RSASSA SignAlgorithm = 0x0014
	RSAPSS SignAlgorithm = 0x0016
	ECDSA  SignAlgorithm = 0x0018
)

// String returns Keylime's name of the scheme.
func (a SignAlgorithm) String() string {
	switch a {
	case RSASSA:
		return "rsassa"
	case RSAPSS:
		return "rsapss"
	case ECDSA:
		return "ecdsa"
	}
	return fmt.Sprintf("alg-%#04x", uint16(a))
}

// AK is the public part of an attestation key that passed every rule of the trust model. Only ParseAK makes one; the zero value is not valid.
// That it lives in a genuine TPM is shown by activating a credential, not by this type.
type AK struct {
	public publicArea
	name   []byte
	key    crypto.PublicKey
	keyAlg string
	scheme SignAlgorithm
	hash   attest.Hash
}

// ParseAK reads a TPM2B_PUBLIC and judges it by the rules for attestation keys. An error says that the bytes are no TPM2B_PUBLIC of an
// asymmetric key; failures (AkAttributes, one per broken rule) say that the key may not attest. With either, the AK is the zero value.
//
// The rules: restricted and sign, so that the TPM signs only what it made itself; no decrypt; fixedTPM, fixedParent and sensitiveDataOrigin, so that
// the key was made in its TPM and cannot leave it; a signing scheme in the key, so that the host cannot choose one; RSA of 2048 to 4096 bits,
// P-256 or P-384; SHA-256 or better for name and scheme.
func ParseAK(tpm2bPublic []byte) (AK, []attest.Failure, error) {
	public, err := parsePublic(tpm2bPublic)
	if err != nil {
		return AK{}, nil, fmt.Errorf("attestation key: %w", err)
	}
	var failures []attest.Failure
	fail := func(format string, args ...any) {
		failures = append(failures, attest.Fail(attest.AkAttributes, "attestation key: "+fmt.Sprintf(format, args...)))
	}
	for _, broken := range brokenAttributes(public.area.ObjectAttributes) {
		fail("%s", broken)
	}
	if !strong(attest.Hash(public.area.NameAlg)) {
		fail("name algorithm %s is weaker than sha256 or unknown", attest.Hash(public.area.NameAlg))
	}
	key, keyAlg, err := public.key()
	if err != nil {
		fail("%v", err)
	}
	scheme, hash, err := public.signingScheme()
	if err != nil {
		fail("%v", err)
	}
	if len(failures) > 0 {
		return AK{}, failures, nil
	}
	return AK{public: public, name: public.name(), key: key, keyAlg: keyAlg, scheme: scheme, hash: hash}, nil, nil
}

// Valid reports whether ParseAK made this key.
func (ak AK) Valid() bool { return ak.key != nil }

// Name returns the key's TPM name, nameAlg || H(TPMT_PUBLIC).
func (ak AK) Name() []byte { return slices.Clone(ak.name) }

// Public returns the TPM2B_PUBLIC as it was given to ParseAK.
func (ak AK) Public() []byte { return slices.Clone(ak.public.raw) }

// Key returns the *rsa.PublicKey or *ecdsa.PublicKey.
func (ak AK) Key() crypto.PublicKey { return ak.key }

// KeyAlgorithm returns Keylime's name of the key type, "rsa2048" or "ecc256".
func (ak AK) KeyAlgorithm() string { return ak.keyAlg }

// Scheme returns the signature scheme that the key is bound to, with its hash.
func (ak AK) Scheme() (SignAlgorithm, attest.Hash) { return ak.scheme, ak.hash }

// brokenAttributes names each object attribute (TPM 2.0 Part 2, section 8.3) that an attestation key must or must not have.
func brokenAttributes(a tpm2.TPMAObject) []string {
	rules := []struct {
		attribute  string
		have, want bool
	}{
		{"restricted", a.Restricted, true},
		{"sign", a.SignEncrypt, true},
		{"decrypt", a.Decrypt, false},
		{"fixedTPM", a.FixedTPM, true},
		{"fixedParent", a.FixedParent, true},
		{"sensitiveDataOrigin", a.SensitiveDataOrigin, true},
	}
	var broken []string
	for _, r := range rules {
		switch {
		case r.want && !r.have:
			broken = append(broken, r.attribute+" is not set")
		case !r.want && r.have:
			broken = append(broken, r.attribute+" is set")
		}
	}
	return broken
}

func strong(h attest.Hash) bool {
	return h == attest.SHA256 || h == attest.SHA384 || h == attest.SHA512
}

// signingScheme returns the scheme in the key's parameters. A null scheme would leave the choice of scheme and hash to the host.
func (p publicArea) signingScheme() (SignAlgorithm, attest.Hash, error) {
	scheme, details := p.scheme()
	var hash tpm2.TPMAlgID
	switch scheme {
	case tpm2.TPMAlgRSASSA:
		if d, err := details.RSASSA(); err == nil {
			hash = d.HashAlg
		}
	case tpm2.TPMAlgRSAPSS:
		if d, err := details.RSAPSS(); err == nil {
			hash = d.HashAlg
		}
	case tpm2.TPMAlgECDSA:
		if d, err := details.ECDSA(); err == nil {
			hash = d.HashAlg
		}
	case tpm2.TPMAlgNull:
		return 0, 0, fmt.Errorf("no signing scheme is set")
	default:
		return 0, 0, fmt.Errorf("scheme %#04x is none of rsassa, rsapss, ecdsa", uint16(scheme))
	}
	if (scheme == tpm2.TPMAlgECDSA) != (p.area.Type == tpm2.TPMAlgECC) {
		return 0, 0, fmt.Errorf("scheme %s does not fit the key's type", SignAlgorithm(scheme))
	}
	if !strong(attest.Hash(hash)) {
		return 0, 0, fmt.Errorf("scheme hash %s is weaker than sha256 or unknown", attest.Hash(hash))
	}
	return SignAlgorithm(scheme), attest.Hash(hash), nil
}

// scheme returns the scheme field of the key's parameters; TPMAlgNull where they cannot be read.
func (p publicArea) scheme() (tpm2.TPMAlgID, tpm2.TPMUAsymScheme) {
	if params, err := p.area.Parameters.RSADetail(); err == nil {
		return params.Scheme.Scheme, params.Scheme.Details
	}
	if params, err := p.area.Parameters.ECCDetail(); err == nil {
		return params.Scheme.Scheme, params.Scheme.Details
	}
	return tpm2.TPMAlgNull, tpm2.TPMUAsymScheme{}
}
