package boxtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
)

// Maker is an authority that endorses TPMs, with the chain that it made for the boxes' EK.
type Maker struct {
	Root        []byte // DER
	Fingerprint attest.Digest
	Leaf        []byte // DER
}

// PEM is the root as people add it.
func (m Maker) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: m.Root})
}

// NewMaker makes an authority whose certificates hold at a time.
func NewMaker(t testing.TB, now time.Time) Maker {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, root, root, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ek, err := endorsement.ParseEK(EKPublic())
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "EK"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageKeyAgreement,
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, ek.Key(), key)
	if err != nil {
		t.Fatal(err)
	}
	return Maker{der, attest.SHA256.Sum(der), leafDER}
}
