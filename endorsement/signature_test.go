package endorsement

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-project/assay/attest"
)

// signer is an attestation key in software: its public area says what a TPM's would say, which only an activation can expose.
type signer struct {
	ak      AK
	private crypto.Signer
}

func newSigner(t testing.TB, scheme SignAlgorithm, hash attest.Hash) signer {
	t.Helper()
	area := tpm2.TPMTPublic{
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
	}
	var private crypto.Signer
	if scheme == ECDSA {
		curve, id := elliptic.P256(), tpm2.TPMECCNistP256
		if hash == attest.SHA384 {
			curve, id = elliptic.P384(), tpm2.TPMECCNistP384
		}
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		private = key
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: id, Scheme: tpm2.TPMTECCScheme{
			Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgID(hash)}),
		}})
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		half := len(point) / 2
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+half]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+half:]},
		})
	} else {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		private = key
		details := tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgID(hash)})
		if scheme == RSAPSS {
			details = tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgID(hash)})
		}
		area.Type = tpm2.TPMAlgRSA
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgID(scheme), Details: details}})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.FillBytes(make([]byte, 256))})
	}
	ak, failures, err := ParseAK(tpm2.Marshal(tpm2.New2B(area)))
	if err != nil || failures != nil {
		t.Fatal(failures, err)
	}
	return signer{ak: ak, private: private}
}

// sign returns a TPMT_SIGNATURE.
func (s signer) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	scheme, hash := s.ak.Scheme()
	var opts crypto.SignerOpts = hash.Crypto()
	if scheme == RSAPSS {
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash.Crypto()}
	}
	raw, err := s.private.Sign(rand.Reader, hash.Sum(message).Bytes(), opts)
	if err != nil {
		t.Fatal(err)
	}
	out := binary.BigEndian.AppendUint16(nil, uint16(scheme))
	out = binary.BigEndian.AppendUint16(out, uint16(hash))
	if scheme != ECDSA {
		return appendSized(out, raw)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(raw, &rs); err != nil {
		t.Fatal(err)
	}
	return appendSized(appendSized(out, rs.R.Bytes()), rs.S.Bytes())
}

func appendSized(out, field []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(field))), field...)
}

func TestVerifySignature(t *testing.T) {
	message := []byte("what the TPM signed")
	for _, row := range []struct {
		scheme SignAlgorithm
		hash   attest.Hash
	}{{RSASSA, attest.SHA256}, {RSASSA, attest.SHA512}, {RSAPSS, attest.SHA256}, {ECDSA, attest.SHA256}, {ECDSA, attest.SHA384}} {
		t.Run(row.scheme.String()+" "+row.hash.String(), func(t *testing.T) {
			s := newSigner(t, row.scheme, row.hash)
			signature := s.sign(t, message)
			if err := s.ak.VerifySignature(message, signature); err != nil {
				t.Fatal(err)
			}
			other := newSigner(t, row.scheme, row.hash)
			flipped := bytes.Clone(signature)
			flipped[len(flipped)-1] ^= 1
			relabelled := bytes.Clone(signature)
			binary.BigEndian.PutUint16(relabelled[2:], uint16(attest.SHA1))
			for name, err := range map[string]error{
				"other message": s.ak.VerifySignature([]byte("what it did not"), signature),
				"other key":     other.ak.VerifySignature(message, signature),
				"flipped bit":   s.ak.VerifySignature(message, flipped),
				"other hash":    s.ak.VerifySignature(message, relabelled),
			} {
				if !errors.Is(err, ErrSignatureInvalid) {
					t.Errorf("%s: %v, expected ErrSignatureInvalid", name, err)
				}
			}
			for name, malformed := range map[string][]byte{"empty": nil, "cut off": signature[:len(signature)-1], "trailing byte": append(bytes.Clone(signature), 0)} {
				if err := s.ak.VerifySignature(message, malformed); err == nil || errors.Is(err, ErrSignatureInvalid) {
					t.Errorf("%s: %v, expected a parse error", name, err)
				}
			}
		})
	}
}

// An ECDSA signature of zeros once passed careless verifiers.
func TestVerifySignatureRefusesZeros(t *testing.T) {
	s := newSigner(t, ECDSA, attest.SHA256)
	zeros := appendSized(appendSized([]byte{0, 0x18, 0, 0x0b}, nil), nil)
	if err := s.ak.VerifySignature([]byte("message"), zeros); !errors.Is(err, ErrSignatureInvalid) {
		t.Errorf("%v, expected ErrSignatureInvalid", err)
	}
}

func TestVerifySignatureNeedsAKey(t *testing.T) {
	if err := (AK{}).VerifySignature(nil, []byte{0, 0x14, 0, 0x0b, 0, 0}); err == nil {
		t.Error("the zero AK verified a signature")
	}
}

func FuzzVerifySignature(f *testing.F) {
	s := newSigner(f, ECDSA, attest.SHA256)
	message := []byte("message")
	signature := s.sign(f, message)
	f.Add(signature)
	f.Add(signature[:40])
	f.Fuzz(func(t *testing.T, forged []byte) {
		if err := s.ak.VerifySignature(message, forged); err == nil && len(forged) > 4+2*(2+32) {
			t.Fatalf("accepted %x", forged)
		}
	})
}
