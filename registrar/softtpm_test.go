package registrar_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/wire"
)

// softTPM is the part of a TPM that a registrar meets: an RSA-2048 EK that opens credentials, and an AK.
type softTPM struct {
	t  testing.TB
	ek *rsa.PrivateKey
	ak *quotetest.Signer
	// chain is the EK certificate, in PEM.
	chain string
}

// ekKeys are made once: a test needs few, and each costs 100 ms and more.
var ekKeys = sync.OnceValue(func() []*rsa.PrivateKey {
	var keys []*rsa.PrivateKey
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys = append(keys, key)
	}
	return keys
})

// newTPM returns the nth machine of a test with a fresh AK; machines of the same n share their EK.
func newTPM(t testing.TB, n int) *softTPM {
	return &softTPM{t: t, ek: ekKeys()[n], ak: quotetest.NewSigner(t, quotetest.ECDSAP256)}
}

// ekPublic is the TPM2B_PUBLIC of template L-1 of the EK Credential Profile.
func (s *softTPM) ekPublic() []byte {
	area := []byte{0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2} // RSA, SHA-256, attributes
	policy := sha256.Sum256(append(make([]byte, 32), 0, 0, 1, 0x51, 0x40, 0, 0, 0x0b))
	policy = sha256.Sum256(policy[:])
	area = append(binary.BigEndian.AppendUint16(area, 32), policy[:]...)  // its value decides nothing here
	area = append(area, 0, 6, 0, 128, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0) // AES-128-CFB, null scheme, 2048 bits, exponent 0
	n := s.ek.N.Bytes()
	area = append(binary.BigEndian.AppendUint16(area, uint16(len(n))), n...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(area))), area...)
}

// id is the default name of the machine.
func (s *softTPM) id() attest.AgentID {
	spki, err := x509.MarshalPKIXPublicKey(&s.ek.PublicKey)
	if err != nil {
		s.t.Fatal(err)
	}
	return attest.EKHash(spki)
}

// request is what an agent on this machine registers with.
func (s *softTPM) request() wire.RegisterRequest {
	r := wire.RegisterRequest{EK: s.ekPublic(), AIK: s.ak.Public(), IP: "10.0.3.7", Port: 9002, Certificate: wire.CertificateDisabled}
	for rest := []byte(s.chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return r
		}
		r.EKCert = append(r.EKCert, block.Bytes)
	}
}

// activateCredential does what TPM2_ActivateCredential does (TPM 2.0 Part 1, "Credential Protection").
func (s *softTPM) activateCredential(c endorsement.Credential) ([]byte, error) {
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, s.ek, c.Secret, []byte("IDENTITY\x00"))
	if err != nil {
		return nil, err
	}
	name := s.ak.AK().Name()
	size := int(binary.BigEndian.Uint16(c.IDObject))
	integrity, identity := c.IDObject[2:2+size], c.IDObject[2+size:]
	mac := hmac.New(sha256.New, kdfa(seed, "INTEGRITY", nil, 256))
	mac.Write(identity)
	mac.Write(name)
	if !hmac.Equal(mac.Sum(nil), integrity) {
		return nil, errors.New("the credential is for another object")
	}
	block, err := aes.NewCipher(kdfa(seed, "STORAGE", name, 128))
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(identity))
	//lint:ignore SA1019 CFB is the TPM's mode; the HMAC above authenticates it
	cipher.NewCFBDecrypter(block, make([]byte, aes.BlockSize)).XORKeyStream(plain, identity)
	return plain[2:], nil
}

// kdfa is KDFa with SHA-256 (TPM 2.0 Part 1, "KDFa()"), for at most 256 bits.
func kdfa(key []byte, label string, contextU []byte, bits uint32) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte{0, 0, 0, 1})
	mac.Write([]byte(label + "\x00"))
	mac.Write(contextU)
	mac.Write(binary.BigEndian.AppendUint32(nil, bits))
	return mac.Sum(nil)[:bits/8]
}

// proof opens a packed credential and returns the activation tag for an id.
func (s *softTPM) proof(blob []byte, id attest.AgentID) string {
	s.t.Helper()
	c, err := wire.UnpackCredential(blob)
	if err != nil {
		s.t.Fatal(err)
	}
	secret, err := s.activateCredential(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return wire.AuthTag(secret, string(id))
}

// vendor is a CA for EKs.
type vendor struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// newVendor makes a CA with the nth key.
func newVendor(t testing.TB, n int, now time.Time) *vendor {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test TPM vendor"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key := ekKeys()[n]
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &vendor{key, cert}
}

func (v *vendor) roots(t testing.TB) *endorsement.Roots {
	t.Helper()
	roots := endorsement.NewRoots()
	if _, err := roots.AddPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.cert.Raw})); err != nil {
		t.Fatal(err)
	}
	return roots
}

// endorse gives a machine an EK certificate.
func (v *vendor) endorse(s *softTPM, serial int64) {
	s.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: v.cert.NotBefore, NotAfter: v.cert.NotAfter, KeyUsage: x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, Subject: pkix.Name{CommonName: "a TPM"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, v.cert, &s.ek.PublicKey, v.key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.chain = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestSoftTPMOpensOnlyItsOwn(t *testing.T) {
	tpm, other := newTPM(t, 0), newTPM(t, 0)
	ek, err := endorsement.ParseEK(tpm.ekPublic())
	if err != nil {
		t.Fatal(err)
	}
	secret := []byte(base64.StdEncoding.EncodeToString(make([]byte, 24)))
	c, err := endorsement.MakeCredential(rand.Reader, ek, tpm.ak.AK().Name(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tpm.activateCredential(c); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := other.activateCredential(c); err == nil {
		t.Error("another AK opened it")
	}
}
