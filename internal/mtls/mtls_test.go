package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

const host = "assay.test"

// clock is a clock that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

// A server decides by the clock of its machine whether a session is resumed, so this one starts there.
func newClock() *clock { return &clock{at: time.Now().Truncate(time.Second)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newAuthority(t testing.TB, c *clock) *mtls.Authority {
	t.Helper()
	a, err := mtls.Create(filepath.Join(t.TempDir(), "ca"), c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t testing.TB, a *mtls.Authority, r mtls.Request) mtls.Issued {
	t.Helper()
	issued, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

func source(t testing.TB, issued mtls.Issued) mtls.Source {
	t.Helper()
	cert, err := issued.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Fixed(cert)
}

func serverSource(t testing.TB, a *mtls.Authority) mtls.Source {
	t.Helper()
	return source(t, issue(t, a, mtls.Request{Role: mtls.Server, Name: "server", Hosts: []string{host, "127.0.0.1"}}))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func selfSigned(t testing.TB, c *clock, name string) mtls.Issued {
	t.Helper()
	issued, err := mtls.SelfSign(mtls.Request{Name: name, Hosts: []string{host}}, newKey(t), c.now())
	if err != nil {
		t.Fatal(err)
	}
	return issued
}

// forged makes a self-signed certificate that claims roles: what an attacker without any CA can make.
func forged(t testing.TB, c *clock, roles ...string) mtls.Issued {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "mallory"}, NotBefore: c.now().Add(-time.Hour), NotAfter: c.now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true,
	}
	for _, role := range roles {
		template.URIs = append(template.URIs, &url.URL{Scheme: "assay", Opaque: "role:" + role})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Issued{
		Certificate: cert,
		CertPEM:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		KeyPEM:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}
}

// listen answers every connection on loopback with one byte and hands out the server's view of it.
func listen(t testing.TB, config *tls.Config) (address string, states <-chan tls.ConnectionState) {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan tls.ConnectionState, 16)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if secure := conn.(*tls.Conn); secure.Handshake() == nil {
				seen <- secure.ConnectionState()
				_, _ = secure.Write([]byte{1}) // the client's side of the test sees a failure
			}
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String(), seen
}

// dial makes a connection and reads the server's byte: with TLS 1.3 a refusal of the client's certificate and the session ticket
// arrive only then.
func dial(address string, config *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}
