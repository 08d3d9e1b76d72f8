// Package mtlstest gives tests certificates and servers.
package mtlstest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

// SelfSigned is the certificate of an agent that made its own key.
func SelfSigned(t testing.TB) mtls.Source {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := mtls.SelfSign(mtls.Request{Name: "agent", Hosts: []string{"127.0.0.1"}}, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Fixed(&tls.Certificate{Certificate: [][]byte{issued.Certificate.Raw}, PrivateKey: key, Leaf: issued.Certificate})
}

// StartTLS serves with a certificate; httptest would put in its own.
func StartTLS(t testing.TB, server *httptest.Server, source mtls.Source) {
	t.Helper()
	certificate, err := source()
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = mtls.ServerConfig(source)
	server.TLS.Certificates = []tls.Certificate{*certificate}
	server.StartTLS()
}
