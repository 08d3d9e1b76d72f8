package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
)

// Key is a public key that file signatures of IMA verify with: RSA from 2048 bits on, or ECDSA over P-256, P-384 or P-521.
type Key struct {
	// ID is what a signature names its key by: the last 4 bytes of the certificate's subject key identifier, or of the SHA-1 over the
	// public key without its algorithm (ima-evm-utils, calc_keyid_v2).
	ID     uint32
	Public crypto.PublicKey
}

// ParseKey reads what the kernel takes into a keyring: a DER certificate, or a DER SubjectPublicKeyInfo.
func ParseKey(der []byte) (Key, error) {
	if cert, err := x509.ParseCertificate(der); err == nil {
		if len(cert.SubjectKeyId) >= 4 {
			id := cert.SubjectKeyId
			return checkedKey(Key{ID: binary.BigEndian.Uint32(id[len(id)-4:]), Public: cert.PublicKey})
		}
		return identified(cert.PublicKey)
	}
	public, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return Key{}, fmt.Errorf("neither a certificate nor a public key: %w", err)
	}
	return identified(public)
}

// identified gives a key without a certificate its id.
func identified(public crypto.PublicKey) (Key, error) {
	var bits []byte
	switch public := public.(type) {
	case *rsa.PublicKey:
		bits = x509.MarshalPKCS1PublicKey(public)
	case *ecdsa.PublicKey:
		var err error
		if bits, err = public.Bytes(); err != nil {
			return Key{}, fmt.Errorf("encode the public point: %w", err)
		}
	}
	sum := sha1.Sum(bits)
	return checkedKey(Key{ID: binary.BigEndian.Uint32(sum[len(sum)-4:]), Public: public})
}

func checkedKey(k Key) (Key, error) {
	switch public := k.Public.(type) {
	case *rsa.PublicKey:
		if public.N.BitLen() < 2048 {
			return Key{}, fmt.Errorf("RSA key of %d bits, fewer than 2048", public.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if c := public.Curve; c != elliptic.P256() && c != elliptic.P384() && c != elliptic.P521() {
			return Key{}, fmt.Errorf("ECDSA key over %s; P-256, P-384 and P-521 are supported", c.Params().Name)
		}
	default:
		return Key{}, fmt.Errorf("key of type %T; RSA and ECDSA are supported", k.Public)
	}
	return k, nil
}

// parsePEMKey reads one PEM block, a certificate or a public key, and nothing else.
func parsePEMKey(source string) (Key, error) {
	block, rest := pem.Decode([]byte(source))
	if block == nil {
		return Key{}, errors.New("is no PEM block")
	}
	if len(rest) > 0 {
		return Key{}, fmt.Errorf("%d bytes after the PEM block; one key each", len(rest))
	}
	if block.Type != "CERTIFICATE" && block.Type != "PUBLIC KEY" {
		return Key{}, fmt.Errorf("PEM block %.40q is neither CERTIFICATE nor PUBLIC KEY", block.Type)
	}
	return ParseKey(block.Bytes)
}
