package mtls_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

// secrets are the files that an operator keeps for a server.
type secrets struct {
	t         testing.TB
	dir       string
	clock     *clock
	authority *mtls.Authority
}

func newSecrets(t testing.TB) *secrets {
	c := newClock()
	s := &secrets{t: t, dir: t.TempDir(), clock: c, authority: newAuthority(t, c)}
	s.issueAll(s.authority)
	s.write("server-ca.pem", s.authority.ServerCAs())
	s.write("client-ca.pem", s.authority.ClientCAs())
	return s
}

func (s *secrets) write(name string, text []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// issueAll writes certificates as a certificate manager does: the leaf alone.
func (s *secrets) issueAll(a *mtls.Authority) {
	s.issue(a, "server", mtls.Request{Role: mtls.Server, Name: "assay", Hosts: []string{"localhost", "127.0.0.1"}})
	s.issue(a, "client", mtls.Request{Role: mtls.VerifierClient, Name: "verifier"})
}

func (s *secrets) issue(a *mtls.Authority, name string, r mtls.Request) {
	issued := issue(s.t, a, r)
	leaf, _, _ := bytes.Cut(issued.CertPEM, []byte("-----END CERTIFICATE-----\n"))
	s.write(name+".crt", append(leaf, "-----END CERTIFICATE-----\n"...))
	s.write(name+".key", issued.KeyPEM)
}

func (s *secrets) files() mtls.Files {
	at := func(name string) string { return filepath.Join(s.dir, name) }
	return mtls.Files{
		Server: mtls.Pair{Certificate: at("server.crt"), Key: at("server.key")}, Client: mtls.Pair{Certificate: at("client.crt"), Key: at("client.key")},
		ServerCAs: at("server-ca.pem"), ClientCAs: at("client-ca.pem"),
	}
}

func (s *secrets) open() *mtls.Supplied {
	s.t.Helper()
	supplied, err := mtls.OpenSupplied(s.files(), s.clock.now)
	if err != nil {
		s.t.Fatal(err)
	}
	return supplied
}

// What is supplied works with pins of join tokens, with bundles, and for a process that asks itself.
func TestSuppliedCertificatesServe(t *testing.T) {
	s := newSecrets(t)
	supplied := s.open()
	if supplied.Pin() != s.authority.Pin() {
		t.Errorf("pin %s, want the authority's %s", supplied.Pin(), s.authority.Pin())
	}
	address, _ := listen(t, mtls.ServerConfig(supplied.Server))
	peer := mtls.Peer{Host: "localhost", Certificate: supplied.Client, Now: s.clock.now}
	pinned, err := peer.PinCA(supplied.Pin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(address, pinned); err != nil {
		t.Errorf("with a join token's pin: %v", err)
	}
	trusted, err := peer.TrustCA(supplied.ServerCAs())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(address, trusted); err != nil {
		t.Errorf("with the bundle: %v", err)
	}
	if _, err := dial(address, peer.PinSource(supplied.Server)); err != nil {
		t.Errorf("a process that asks itself: %v", err)
	}
	other := newSecrets(t)
	if _, err := dial(address, peer.PinSource(other.open().Server)); err == nil {
		t.Error("a process took another server for itself")
	}
}

// A rotation: bundles of both authorities first, then certificates of the new one, then its bundle alone. No step needs a restart.
func TestSuppliedCertificatesRotate(t *testing.T) {
	s := newSecrets(t)
	supplied := s.open()
	if changed, err := supplied.Reload(); changed || err != nil {
		t.Errorf("nothing changed: %v, %v", changed, err)
	}
	next := newAuthority(t, s.clock)
	s.write("server-ca.pem", append(s.authority.ServerCAs(), next.ServerCAs()...))
	s.write("client-ca.pem", append(s.authority.ClientCAs(), next.ClientCAs()...))
	if changed, err := supplied.Reload(); !changed || err != nil || supplied.Pin() != s.authority.Pin() {
		t.Fatalf("both bundles: %v, %v, pin %s", changed, err, supplied.Pin())
	}
	before, _ := supplied.Server()
	s.issue(next, "server", mtls.Request{Role: mtls.Server, Name: "assay", Hosts: []string{"localhost"}})
	key, err := os.ReadFile(s.files().Server.Key)
	if err != nil {
		t.Fatal(err)
	}
	s.write("server.key", []byte("half a k"))
	if changed, err := supplied.Reload(); changed || err == nil {
		t.Fatalf("half a replacement: %v, %v", changed, err)
	}
	if now, _ := supplied.Server(); now != before {
		t.Error("what was good before is not in use any longer")
	}
	s.write("server.key", key)
	if changed, err := supplied.Reload(); !changed || err != nil || supplied.Pin() != next.Pin() {
		t.Fatalf("the new certificate: %v, %v, pin %s", changed, err, supplied.Pin())
	}
	s.issueAll(next)
	s.write("server-ca.pem", next.ServerCAs())
	s.write("client-ca.pem", next.ClientCAs())
	if changed, err := supplied.Reload(); !changed || err != nil || !bytes.Equal(supplied.ClientCAs(), next.ClientCAs()) {
		t.Errorf("the new bundles alone: %v, %v", changed, err)
	}
}

// Each mistake names its file, and holds no key.
func TestSuppliedCertificatesNameTheFile(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(s *secrets)
		want  []string
	}{
		"a file that is not there":     {func(s *secrets) { os.Remove(s.files().Server.Key) }, []string{"server.key", "no such file"}},
		"two files that are not there": {func(s *secrets) { os.Remove(s.files().Server.Key); os.Remove(s.files().ClientCAs) }, []string{"server.key", "client-ca.pem"}},
		"a folder":                     {func(s *secrets) { os.Remove(s.files().ServerCAs); os.Mkdir(s.files().ServerCAs, 0o700) }, []string{"server-ca.pem: want a file"}},
		"a file that is too large":     {func(s *secrets) { s.write("server.crt", bytes.Repeat([]byte("x"), 1<<20+1)) }, []string{"server.crt: want a file of at most 1048576 bytes"}},
		"a certificate that is none":   {func(s *secrets) { s.write("server.crt", []byte("hello")) }, []string{"server.crt: no certificate in PEM"}},
		"a bundle that is none":        {func(s *secrets) { s.write("client-ca.pem", []byte("hello")) }, []string{"client-ca.pem: no certificate in PEM"}},
		"a key of another certificate": {func(s *secrets) {
			s.issue(s.authority, "x", mtls.Request{Role: mtls.Server, Name: "x", Hosts: []string{"x"}})
			copyFile(s, "x.key", "server.key")
		}, []string{"server.crt with ", "server.key: ", "does not match"}},
		"a certificate of another CA":    {func(s *secrets) { s.issueAll(newAuthority(s.t, s.clock)) }, []string{"server.crt: not a server's certificate of an authority in", "client.crt: not a client's certificate"}},
		"a client's in a server's place": {func(s *secrets) { copyFile(s, "client.crt", "server.crt"); copyFile(s, "client.key", "server.key") }, []string{"server.crt: not a server's certificate"}},
		"an administrator's certificate": {func(s *secrets) { s.issue(s.authority, "client", mtls.Request{Role: mtls.Administrator, Name: "x"}) }, []string{"client.crt: has the role administrator; want the URI name assay:role:verifier-client"}},
		"certificates that have expired": {func(s *secrets) { s.clock.pass(9 * 365 * 24 * time.Hour) }, []string{"server.crt: not a server's certificate", "expired"}},
		"one authority for both": {func(s *secrets) {
			s.write("client-ca.pem", append(s.authority.ClientCAs(), s.authority.ServerCAs()...))
		}, []string{"client-ca.pem: the authority ", "server-ca.pem too; servers and clients need separate ones"}},
		"a key in a certificate's bundle": {func(s *secrets) { copyFile(s, "server.key", "server-ca.pem") }, []string{`server-ca.pem: PEM block 0 is a "PRIVATE KEY"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSecrets(t)
			s.open()
			tt.spoil(s)
			_, err := mtls.OpenSupplied(s.files(), s.clock.now)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v does not say %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "BEGIN") {
				t.Errorf("the error holds a file: %v", err)
			}
		})
	}
}

func copyFile(s *secrets, from, to string) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, from))
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(to, text)
}

func TestClientsTakeAnotherBundle(t *testing.T) {
	c := newClock()
	old, next := newAuthority(t, c), newAuthority(t, c)
	clients := newClients(t, old.ClientCAs(), c)
	state := serverView(t, next, c, source(t, issue(t, next, mtls.Request{Role: mtls.Viewer, Name: "guest"})))
	if _, err := clients.Identify(&state); err == nil {
		t.Error("a client of another authority")
	}
	if err := clients.Replace([]byte("hello")); err == nil {
		t.Error("a bundle that is none")
	}
	if err := clients.Replace(next.ClientCAs()); err != nil {
		t.Fatal(err)
	}
	if _, err := clients.Identify(&state); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
}
