package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
)

// Role says what the holder of a certificate is.
type Role string

// The roles. Server belongs to the servers' CA, Agent to the agents'; the others are clients.
const (
	Server         Role = "server"
	Agent          Role = "agent"
	Administrator  Role = "administrator"
	Operator       Role = "operator"
	VerifierClient Role = "verifier-client"
	Viewer         Role = "viewer"
	PolicyAuthor   Role = "policy-author"
)

// ClientRoles returns the roles that a client can hold, for help texts and tables.
func ClientRoles() []Role {
	return []Role{Administrator, Operator, VerifierClient, Viewer, PolicyAuthor}
}

// ParseRole reads the name of a role.
func ParseRole(text string) (Role, error) {
	known := append([]Role{Server, Agent}, ClientRoles()...)
	if !slices.Contains(known, Role(text)) {
		return "", fmt.Errorf("unknown role %q; the roles are %v", text, known)
	}
	return Role(text), nil
}

const rolePrefix = "role:"

func (r Role) uri() *url.URL { return &url.URL{Scheme: "assay", Opaque: rolePrefix + string(r)} }

// roleOf reads the role that a certificate claims. Two roles in one certificate are ambiguous, so they are none.
func roleOf(cert *x509.Certificate) (Role, error) {
	var found []Role
	for _, uri := range cert.URIs {
		if text, is := strings.CutPrefix(uri.Opaque, rolePrefix); is && uri.Scheme == "assay" {
			role, err := ParseRole(text)
			if err != nil {
				return "", err
			}
			found = append(found, role)
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("certificate of %q names %d roles, not one", cert.Subject.CommonName, len(found))
	}
	return found[0], nil
}

// ErrNoCertificate says that the peer presented no certificate.
var ErrNoCertificate = errors.New("no client certificate")

// Identity is a client that proved a role.
type Identity struct {
	Role Role
	// Name is the common name: who holds the certificate, for logs and audit.
	Name string
}

// Clients recognises the certificates of the clients' CA.
type Clients struct {
	roots atomic.Pointer[x509.CertPool]
	now   func() time.Time
}

// NewClients takes the clients' CA, one or more certificates in PEM. A nil clock is time.Now.
func NewClients(bundle []byte, now func() time.Time) (*Clients, error) {
	c := &Clients{now: clockOr(now)}
	if err := c.Replace(bundle); err != nil {
		return nil, err
	}
	return c, nil
}

// Replace takes another bundle from now on, for connections that are open too.
func (c *Clients) Replace(bundle []byte) error {
	roots, err := parsePool(bundle)
	if err != nil {
		return fmt.Errorf("clients' CA: %w", err)
	}
	c.roots.Store(roots)
	return nil
}

// Identify returns who the peer is, or why it has no role: no certificate, one of another CA (an agent's own key among them), an
// expired one, one without a client's role. TLS has proven that the peer holds the key; the chain is verified here, at every call,
// so a certificate that expires loses its role in the middle of a connection too.
func (c *Clients) Identify(state *tls.ConnectionState) (Identity, error) {
	leaf, ok := leafOf(state)
	if !ok {
		return Identity{}, ErrNoCertificate
	}
	options := x509.VerifyOptions{
		Roots: c.roots.Load(), Intermediates: x509.NewCertPool(), CurrentTime: c.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, between := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(between)
	}
	if _, err := leaf.Verify(options); err != nil {
		return Identity{}, fmt.Errorf("client certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	role, err := roleOf(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("client certificate: %w", err)
	}
	if !slices.Contains(ClientRoles(), role) {
		return Identity{}, fmt.Errorf("client certificate of %q: role %s is not a client's", leaf.Subject.CommonName, role)
	}
	return Identity{Role: role, Name: leaf.Subject.CommonName}, nil
}

// RoleOf is Identify for callers to whom the reason does not matter.
func (c *Clients) RoleOf(state *tls.ConnectionState) (role Role, name string, ok bool) {
	who, err := c.Identify(state)
	return who.Role, who.Name, err == nil
}

// PeerKey returns the SHA-256 digest of the SubjectPublicKeyInfo that the peer proved to hold. It is a key and no more: anybody can
// make a certificate for a key of his own.
func PeerKey(state *tls.ConnectionState) (attest.Digest, bool) {
	leaf, ok := leafOf(state)
	if !ok {
		return attest.Digest{}, false
	}
	return KeyDigest(leaf), true
}

// KeyDigest returns the SHA-256 digest of a certificate's SubjectPublicKeyInfo: the form of every pin.
func KeyDigest(cert *x509.Certificate) attest.Digest {
	return attest.SHA256.Sum(cert.RawSubjectPublicKeyInfo)
}

func leafOf(state *tls.ConnectionState) (*x509.Certificate, bool) {
	if state == nil || !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return nil, false
	}
	return state.PeerCertificates[0], true
}

func clockOr(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}
