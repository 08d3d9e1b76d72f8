package mtls

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// sessionsPerPeer is the size of a client configuration's own session cache; it talks to one peer.
const sessionsPerPeer = 4

// ServerConfig is for the servers' ports. A client certificate is asked for and never required: Clients.Identify gives its role if
// it is the clients' CA's, and PeerKey its key whoever made it. The list of acceptable CAs stays empty, so that agents send their
// self-signed certificates.
func ServerConfig(certificate Source) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate()
		},
	}
}

// AgentConfig is for the port of an agent: only clients of the given CAs (PEM) get through the handshake. Which role they have is
// left to the handler; a Keylime verifier's certificate has none. A nil clock is time.Now.
func AgentConfig(certificate Source, clientCAs []byte, now func() time.Time) (*tls.Config, error) {
	pool, err := parsePool(clientCAs)
	if err != nil {
		return nil, fmt.Errorf("clients' CA: %w", err)
	}
	config := ServerConfig(certificate)
	config.ClientAuth, config.ClientCAs, config.Time = tls.RequireAndVerifyClientCert, pool, now
	return config, nil
}

// Peer says whom a client dials, and as whom. Its methods make a configuration, each with a session cache of its own, that is good
// for this peer only.
type Peer struct {
	// Host is the name or address that the server's certificate must hold. PinCertificate needs none.
	Host string
	// Certificate is what the client presents; nil is nothing.
	Certificate Source
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// ErrPin says that the server is not the pinned one.
var ErrPin = errors.New("server does not match the pin")

// TrustCA accepts a server that has a certificate for Host of one of the CAs in the bundle (PEM).
func (p Peer) TrustCA(bundle []byte) (*tls.Config, error) {
	roots, err := parsePool(bundle)
	if err != nil {
		return nil, fmt.Errorf("CA bundle for %q: %w", p.Host, err)
	}
	if p.Host == "" {
		return nil, errors.New("CA bundle: no host to verify")
	}
	config := p.base()
	config.RootCAs = roots
	return config, nil
}

// PinCA accepts a server that has a certificate for Host of a CA that stands in the presented chain and has the pinned key (KeyDigest).
func (p Peer) PinCA(pin attest.Digest) (*tls.Config, error) {
	if p.Host == "" || pin.Hash() != attest.SHA256 {
		return nil, fmt.Errorf("pinned CA: need a host and a SHA-256 pin, have %q and %q", p.Host, pin)
	}
	config := p.base()
	config.InsecureSkipVerify = true // the library would look for a root; VerifyConnection finds it by its pin
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return p.verifyPinnedCA(state.PeerCertificates, pin)
	}
	return config, nil
}

func (p Peer) verifyPinnedCA(chain []*x509.Certificate, pin attest.Digest) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: it sent no certificate", ErrPin)
	}
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), DNSName: p.Host, CurrentTime: clockOr(p.Now)(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	pinned := false
	for _, cert := range chain[1:] {
		// The root of the presented chain is the attacker's choice but for its key, so its other properties are checked here:
		// Verify does not look at a root's basic constraints when the root is the issuer.
		if KeyDigest(cert) == pin && cert.BasicConstraintsValid && cert.IsCA {
			options.Roots.AddCert(cert)
			pinned = true
		} else {
			options.Intermediates.AddCert(cert)
		}
	}
	if !pinned {
		return fmt.Errorf("%w %s: no CA in its chain of %d certificates has that key", ErrPin, pin, len(chain))
	}
	if _, err := chain[0].Verify(options); err != nil {
		return fmt.Errorf("%w %s: %w", ErrPin, pin, err)
	}
	return nil
}

// PinCertificate accepts a server that presents exactly the given certificate (DER), as registered, self-signed or not, until it
// expires. Names and issuers in it mean nothing. A start in the future is no error: clocks of machines that just booted differ, and
// the pin already says that the certificate exists.
func (p Peer) PinCertificate(leaf []byte) (*tls.Config, error) {
	if len(leaf) == 0 {
		return nil, fmt.Errorf("pinned certificate for %q: it is empty", p.Host)
	}
	pinned := bytes.Clone(leaf)
	config := p.base()
	config.InsecureSkipVerify = true // VerifyConnection compares the certificate itself
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, pinned) {
			return fmt.Errorf("%w: it presented another certificate than the registered one", ErrPin)
		}
		if until := state.PeerCertificates[0].NotAfter; clockOr(p.Now)().After(until) {
			return fmt.Errorf("%w: the registered certificate expired at %s", ErrPin, until.Format(time.RFC3339))
		}
		return nil
	}
	return config, nil
}

// PinSource accepts a server that presents the certificate that source gives now: the own one, when a process asks itself.
func (p Peer) PinSource(source Source) *tls.Config {
	config := p.base()
	config.InsecureSkipVerify = true // VerifyConnection compares the certificate itself
	config.VerifyConnection = func(state tls.ConnectionState) error {
		own, err := source()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPin, err)
		}
		if len(own.Certificate) == 0 || len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, own.Certificate[0]) {
			return fmt.Errorf("%w: it presented another certificate than this process has", ErrPin)
		}
		return nil
	}
	return config
}

func (p Peer) base() *tls.Config {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         p.Host,
		Time:               p.Now,
		ClientSessionCache: tls.NewLRUClientSessionCache(sessionsPerPeer),
	}
	if p.Certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return p.Certificate()
		}
	}
	return config
}
