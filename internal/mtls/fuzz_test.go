package mtls_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"github.com/assay-project/assay/internal/mtls"
)

// A bundle that is accepted holds certificates only, and each of them was in the text.
func FuzzParseBundle(f *testing.F) {
	a := newAuthority(f, newClock())
	f.Add(a.ServerCAs())
	f.Add(append(a.ServerCAs(), a.ClientCAs()...))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		certs, err := mtls.ParseBundle(text)
		if err == nil && (len(certs) == 0 || len(certs) > bytes.Count(text, []byte("BEGIN CERTIFICATE"))) {
			t.Errorf("%d certificates of %q", len(certs), text)
		}
	})
}

// A CSR comes from outside; whatever it asks for, the certificate has the role and the name of the request.
func FuzzIssueCSR(f *testing.F) {
	a := newAuthority(f, newClock())
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"x"}}, newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		issued, err := a.Issue(mtls.Request{Role: mtls.Viewer, Name: "v", CSR: csr})
		if err != nil {
			return
		}
		cert := issued.Certificate
		if cert.Subject.CommonName != "v" || len(cert.URIs) != 1 || cert.URIs[0].String() != "assay:role:viewer" || cert.DNSNames != nil || cert.IsCA {
			t.Errorf("certificate of %q with %v %v", cert.Subject.CommonName, cert.URIs, cert.DNSNames)
		}
	})
}
