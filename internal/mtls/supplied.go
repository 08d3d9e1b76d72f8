package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// maxFileBytes bounds a file of certificates.
const maxFileBytes = 1 << 20

// Pair names the PEM files of a certificate, with its intermediates, and of its key.
type Pair struct{ Certificate, Key string }

// Files name what somebody else issues for a server and replaces as files, such as mounted Secrets. ServerCAs and ClientCAs are bundles; in
// a rotation they hold the old authority and the new one.
type Files struct {
	Server, Client       Pair
	ServerCAs, ClientCAs string
}

// Supplied holds the certificates of Files as they were last good.
type Supplied struct {
	files Files
	now   func() time.Time

	mu      sync.Mutex
	texts   [6][]byte // what was read, to see a change
	current supplied
}

// supplied is one good state of the files.
type supplied struct {
	server, client       *tls.Certificate
	serverCAs, clientCAs []byte
	pin                  attest.Digest
}

// OpenSupplied reads the files and reports every mistake at once, each with its file. A nil clock is time.Now.
func OpenSupplied(files Files, now func() time.Time) (*Supplied, error) {
	s := &Supplied{files: files, now: clockOr(now)}
	if _, err := s.Reload(); err != nil {
		return nil, err
	}
	return s, nil
}

// Reload reads the files again and reports whether they changed. On an error what was good before stays in use: files are replaced one after the
// other, so that a key may not fit its certificate for a moment.
func (s *Supplied) Reload() (changed bool, err error) {
	var texts [6][]byte
	var mistakes []error
	for i, name := range []string{s.files.Server.Certificate, s.files.Server.Key, s.files.Client.Certificate, s.files.Client.Key, s.files.ServerCAs, s.files.ClientCAs} {
		var err error
		if texts[i], err = readBounded(name); err != nil {
			mistakes = append(mistakes, err)
		}
	}
	if err := errors.Join(mistakes...); err != nil {
		return false, fmt.Errorf("supplied certificates: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	same := true
	for i := range texts {
		same = same && s.texts[i] != nil && bytes.Equal(texts[i], s.texts[i])
	}
	if same {
		return false, nil
	}
	next, err := s.files.check(texts, s.now())
	if err != nil {
		return false, fmt.Errorf("supplied certificates: %w", err)
	}
	s.texts, s.current = texts, next
	return true, nil
}

func readBounded(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s: want a file of at most %d bytes", name, maxFileBytes)
	}
	return os.ReadFile(name)
}

// check judges the six texts together.
func (f Files) check(texts [6][]byte, now time.Time) (s supplied, err error) {
	var mistakes []error
	note := func(err error) {
		if err != nil {
			mistakes = append(mistakes, err)
		}
	}
	s.serverCAs, s.clientCAs = texts[4], texts[5]
	serverCAs, err := parsePool(s.serverCAs)
	if err != nil {
		note(fmt.Errorf("%s: %w", f.ServerCAs, err))
	}
	clientCAs, err := parsePool(s.clientCAs)
	if err != nil {
		note(fmt.Errorf("%s: %w", f.ClientCAs, err))
	}
	s.server, err = f.Server.load(texts[0], texts[1])
	note(err)
	s.client, err = f.Client.load(texts[2], texts[3])
	note(err)
	note(f.apart(s))
	if len(mistakes) > 0 {
		return supplied{}, errors.Join(mistakes...)
	}
	var root *x509.Certificate
	root, err = complete(s.server, x509.VerifyOptions{Roots: serverCAs, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err != nil {
		note(fmt.Errorf("%s: not a server's certificate of an authority in %s: %w", f.Server.Certificate, f.ServerCAs, err))
	} else {
		s.pin = KeyDigest(root)
	}
	if _, err := complete(s.client, x509.VerifyOptions{Roots: clientCAs, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		note(fmt.Errorf("%s: not a client's certificate of an authority in %s: %w", f.Client.Certificate, f.ClientCAs, err))
	}
	switch role, err := roleOf(s.client.Leaf); {
	case err != nil:
		note(fmt.Errorf("%s: %w; want the URI name %s", f.Client.Certificate, err, VerifierClient.uri()))
	case role != VerifierClient:
		note(fmt.Errorf("%s: has the role %s; want the URI name %s", f.Client.Certificate, role, VerifierClient.uri()))
	}
	return s, errors.Join(mistakes...)
}

// apart refuses an authority that stands in both bundles: usages alone would then keep whoever can have a server's certificate from being an
// administrator. Bundles that cannot be read are told of elsewhere.
func (f Files) apart(s supplied) error {
	servers, _ := ParseBundle(s.serverCAs)
	clients, _ := ParseBundle(s.clientCAs)
	for _, server := range servers {
		for _, client := range clients {
			if KeyDigest(server) == KeyDigest(client) {
				return fmt.Errorf("%s: the authority %q stands in %s too; servers and clients need separate ones", f.ClientCAs, client.Subject, f.ServerCAs)
			}
		}
	}
	return nil
}

// load pairs a certificate with its key. The error holds no key.
func (p Pair) load(certificate, key []byte) (*tls.Certificate, error) {
	if _, err := ParseBundle(certificate); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Certificate, err)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", p.Certificate, p.Key, err)
	}
	return &pair, nil
}

// complete verifies a certificate and makes the chain that is presented reach its root: clients with a pin look for it there. It returns
// the root.
func complete(c *tls.Certificate, options x509.VerifyOptions) (*x509.Certificate, error) {
	options.Intermediates = x509.NewCertPool()
	for _, der := range c.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil { // it parsed as part of the bundle
			options.Intermediates.AddCert(cert)
		}
	}
	chains, err := c.Leaf.Verify(options)
	if err != nil {
		return nil, err
	}
	chain := chains[0]
	c.Certificate = c.Certificate[:0:0]
	for _, cert := range chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return chain[len(chain)-1], nil
}

func (s *Supplied) last() supplied {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Server gives the server's certificate, Client that of the role verifier-client: as of the last good files at each handshake.
func (s *Supplied) Server() (*tls.Certificate, error) { return s.last().server, nil }

// Client is documented with Server.
func (s *Supplied) Client() (*tls.Certificate, error) { return s.last().client, nil }

// ServerCAs returns the bundle that proves a server, in PEM.
func (s *Supplied) ServerCAs() []byte { return bytes.Clone(s.last().serverCAs) }

// ClientCAs returns the bundle that proves administrators and services, in PEM.
func (s *Supplied) ClientCAs() []byte { return bytes.Clone(s.last().clientCAs) }

// Pin returns the key digest of the authority that the server's present certificate leads to, for join tokens.
func (s *Supplied) Pin() attest.Digest { return s.last().pin }
