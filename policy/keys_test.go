package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"
)

type testKey struct {
	name   string
	signer crypto.Signer
	spki   []byte
	// bits is what the key's id is made of.
	bits []byte
}

// newKeys makes one key of each supported type.
func newKeys(t testing.TB) []testKey {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []testKey{{name: "rsa", signer: rsaKey, bits: x509.MarshalPKCS1PublicKey(&rsaKey.PublicKey)}}
	for name, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384(), "p521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		bits, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, testKey{name: name, signer: key, bits: bits})
	}
	for i := range keys {
		keys[i].spki = marshalKey(t, keys[i].signer.Public())
	}
	return keys
}

func marshalKey(t testing.TB, public crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certificate(t testing.TB, key crypto.Signer, id []byte) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ima"}, SubjectKeyId: id, NotAfter: time.Unix(4e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestParseKey(t *testing.T) {
	for _, key := range newKeys(t) {
		sum := sha1.Sum(key.bits)
		want := binary.BigEndian.Uint32(sum[16:])
		got, err := ParseKey(key.spki)
		if err != nil || got.ID != want {
			t.Errorf("%s: id %08x, want %08x, error %v", key.name, got.ID, want, err)
		}
		got, err = ParseKey(certificate(t, key.signer, []byte{1, 2, 3, 0xca, 0xfe, 0xba, 0xbe}))
		if err != nil || got.ID != 0xcafebabe {
			t.Errorf("%s: id by certificate %08x, error %v", key.name, got.ID, err)
		}
		got, err = ParseKey(certificate(t, key.signer, nil))
		if err != nil || got.ID != want {
			t.Errorf("%s: id by certificate without an identifier %08x, want %08x, error %v", key.name, got.ID, want, err)
		}
	}
}

func TestParseKeyRefuses(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for want, der := range map[string][]byte{
		"fewer than 2048":                      marshalKey(t, small.Public()),
		"P-224":                                marshalKey(t, p224.Public()),
		"ed25519.PublicKey":                    marshalKey(t, edwards),
		"neither a certificate nor a public":   {0x30, 0},
		"neither a certificate nor a public k": nil,
	} {
		if _, err := ParseKey(der); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestParsePEMKey(t *testing.T) {
	spki := newKeys(t)[0].spki
	good := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	if _, err := parsePEMKey(good); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{
		"":          "is no PEM block",
		good + good: "after the PEM block; one key each",
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: spki})): `"PRIVATE KEY" is neither`,
	} {
		if _, err := parsePEMKey(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
