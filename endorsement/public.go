package endorsement

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// Bounds on keys from outside. The upper bound on RSA keeps a hostile key from costing a verification of its own choice.
const (
	minRSABits     = 2048
	maxRSABits     = 4096
	rsaExponent    = 65537
	maxPublicBytes = 1024
)

// publicArea is a TPM2B_PUBLIC whose bytes are exactly what its fields marshal to.
type publicArea struct {
	raw  []byte // with the size prefix, as sent
	area *tpm2.TPMTPublic
}

// parsePublic reads a TPM2B_PUBLIC (TPM 2.0 Part 2, section 12.2.5). Bytes after the structure, and encodings that do not marshal back to
// themselves, are refused: two byte strings for one key would give two names.
func parsePublic(tpm2bPublic []byte) (publicArea, error) {
	if len(tpm2bPublic) < 2 || len(tpm2bPublic) > maxPublicBytes {
		return publicArea{}, fmt.Errorf("parse TPM2B_PUBLIC: %d bytes, expected 2 to %d", len(tpm2bPublic), maxPublicBytes)
	}
	if size := int(binary.BigEndian.Uint16(tpm2bPublic)); size != len(tpm2bPublic)-2 {
		return publicArea{}, fmt.Errorf("parse TPM2B_PUBLIC: size field says %d, %d bytes follow", size, len(tpm2bPublic)-2)
	}
	raw := slices.Clone(tpm2bPublic)
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw[2:])
	if err != nil {
		return publicArea{}, fmt.Errorf("parse TPM2B_PUBLIC: %w", err)
	}
	if area.Type != tpm2.TPMAlgRSA && area.Type != tpm2.TPMAlgECC {
		return publicArea{}, fmt.Errorf("parse TPM2B_PUBLIC: object type %#04x is neither RSA nor ECC", uint16(area.Type))
	}
	if !bytes.Equal(tpm2.Marshal(area), raw[2:]) {
		return publicArea{}, fmt.Errorf("parse TPM2B_PUBLIC: the bytes are not the encoding of the key that they describe")
	}
	return publicArea{raw: raw, area: area}, nil
}

// name returns nameAlg || H_nameAlg(TPMT_PUBLIC) (TPM 2.0 Part 1, "Names"), or nil where the algorithm is not known.
func (p publicArea) name() []byte {
	h := attest.Hash(p.area.NameAlg)
	if !h.Known() {
		return nil
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(h)), h.Sum(p.raw[2:]).Bytes()...)
}

// key returns the public key and its name in the words of Keylime, "rsa2048" or "ecc256". A key that is too weak, too large or not on its curve
// is an error.
func (p publicArea) key() (crypto.PublicKey, string, error) {
	if p.area.Type == tpm2.TPMAlgECC {
		return p.eccKey()
	}
	return p.rsaKey()
}

func (p publicArea) rsaKey() (crypto.PublicKey, string, error) {
	params, err := p.area.Parameters.RSADetail()
	if err != nil {
		return nil, "", fmt.Errorf("rsa parameters: %w", err)
	}
	unique, err := p.area.Unique.RSA()
	if err != nil {
		return nil, "", fmt.Errorf("rsa modulus: %w", err)
	}
	modulus := new(big.Int).SetBytes(unique.Buffer)
	switch bits := modulus.BitLen(); {
	case bits < minRSABits || bits > maxRSABits:
		return nil, "", fmt.Errorf("rsa key has %d bits, expected %d to %d", bits, minRSABits, maxRSABits)
	case bits != int(params.KeyBits) || len(unique.Buffer)*8 != bits:
		return nil, "", fmt.Errorf("rsa key has %d bits in %d bytes, its parameters say %d bits", bits, len(unique.Buffer), params.KeyBits)
	case modulus.Bit(0) == 0:
		return nil, "", fmt.Errorf("rsa modulus is even")
	case params.Exponent != 0 && params.Exponent != rsaExponent:
		return nil, "", fmt.Errorf("rsa exponent is %d, not %d", params.Exponent, rsaExponent)
	}
	return &rsa.PublicKey{N: modulus, E: rsaExponent}, fmt.Sprintf("rsa%d", params.KeyBits), nil
}

func (p publicArea) eccKey() (crypto.PublicKey, string, error) {
	params, err := p.area.Parameters.ECCDetail()
	if err != nil {
		return nil, "", fmt.Errorf("ecc parameters: %w", err)
	}
	point, err := p.area.Unique.ECC()
	if err != nil {
		return nil, "", fmt.Errorf("ecc point: %w", err)
	}
	var curve elliptic.Curve
	switch params.CurveID {
	case tpm2.TPMECCNistP256:
		curve = elliptic.P256()
	case tpm2.TPMECCNistP384:
		curve = elliptic.P384()
	default:
		return nil, "", fmt.Errorf("ecc curve %#04x is neither P-256 nor P-384", uint16(params.CurveID))
	}
	size := curve.Params().BitSize / 8
	x, y := point.X.Buffer, point.Y.Buffer
	if len(x) > size || len(y) > size {
		return nil, "", fmt.Errorf("ecc point: coordinates of %d and %d bytes on a curve of %d", len(x), len(y), size)
	}
	uncompressed := make([]byte, 1+2*size) // some TPMs drop leading zeros of a coordinate
	uncompressed[0] = 4
	copy(uncompressed[1+size-len(x):], x)
	copy(uncompressed[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, uncompressed)
	if err != nil {
		return nil, "", fmt.Errorf("ecc point: %w", err)
	}
	return key, fmt.Sprintf("ecc%d", curve.Params().BitSize), nil
}
