package mtls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// Request says what certificate is wanted.
type Request struct {
	Role Role
	// Name is the common name, 1 to 64 printable characters (RFC 5280, ub-common-name).
	Name string
	// Hosts are the DNS names and IP addresses of a server, which needs one at least, or of an agent. Clients have none.
	Hosts []string
	// Lifetime is 90 days for servers and agents and one year for clients if it is 0; it never exceeds the authority's own.
	Lifetime time.Duration
	// CSR is a PEM certificate request whose key is certified; nothing else is taken from it. Without one a P-256 key is made.
	CSR []byte
}

const (
	machineLifetime = 90 * 24 * time.Hour
	clientLifetime  = 365 * 24 * time.Hour
	maxNameRunes    = 64
)

// Issue makes a certificate of the authority that the role belongs to.
func (a *Authority) Issue(r Request) (Issued, error) {
	ca := a.cas[r.Role.realm()]
	template, err := r.template(a.now())
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %q: %w", r.Name, err)
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	var key *ecdsa.PrivateKey
	var public crypto.PublicKey
	if r.CSR != nil {
		public, err = parseRequest(r.CSR)
	} else if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err == nil {
		public = &key.PublicKey
	}
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %q: %w", r.Name, err)
	}
	cert, err := sign(template, ca.cert, public, ca.key)
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate of %q: %w", r.Name, err)
	}
	issued := Issued{Certificate: cert, CertPEM: encodeCertificates(cert, ca.cert)}
	if key != nil {
		if issued.KeyPEM, err = encodeKey(key); err != nil {
			return Issued{}, err
		}
	}
	return issued, nil
}

// SelfSign makes a certificate of key by itself, for an agent: its TLS key is proven by its AK or its registration and by no CA. It
// serves as client's and as server's certificate. Role and CSR of the request must be empty.
func SelfSign(r Request, key crypto.Signer, now time.Time) (Issued, error) {
	if r.Role != "" || r.CSR != nil {
		return Issued{}, fmt.Errorf("self-signed certificate of %q: a role or a CSR needs an authority", r.Name)
	}
	r.Role = Agent
	template, err := r.template(now)
	if err != nil {
		return Issued{}, fmt.Errorf("self-signed certificate of %q: %w", r.Name, err)
	}
	template.URIs = nil
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return Issued{}, fmt.Errorf("self-signed certificate of %q: %w", r.Name, err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Certificate: cert, CertPEM: encodeCertificates(cert), KeyPEM: text}, nil
}

// template checks the request, all of it at once, and fills a certificate.
func (r Request) template(now time.Time) (*x509.Certificate, error) {
	var mistakes []error
	if _, err := ParseRole(string(r.Role)); err != nil {
		mistakes = append(mistakes, err)
	}
	if err := checkName(r.Name); err != nil {
		mistakes = append(mistakes, err)
	}
	cert := &x509.Certificate{
		Subject: pkix.Name{CommonName: r.Name}, URIs: []*url.URL{r.Role.uri()},
		NotBefore: now.Add(-backdate), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	lifetime := machineLifetime
	switch r.Role {
	case Server:
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if len(r.Hosts) == 0 {
			mistakes = append(mistakes, errors.New("a server needs a host name or address"))
		}
	case Agent:
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	default:
		lifetime = clientLifetime
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		if len(r.Hosts) > 0 {
			mistakes = append(mistakes, fmt.Errorf("role %s takes no host names", r.Role))
		}
	}
	if r.Lifetime < 0 {
		mistakes = append(mistakes, fmt.Errorf("lifetime %s is negative", r.Lifetime))
	} else if r.Lifetime > 0 {
		lifetime = r.Lifetime
	}
	cert.NotAfter = now.Add(lifetime)
	for _, host := range r.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			cert.IPAddresses = append(cert.IPAddresses, ip)
		} else if err := checkDNSName(host); err != nil {
			mistakes = append(mistakes, err)
		} else {
			cert.DNSNames = append(cert.DNSNames, host)
		}
	}
	return cert, errors.Join(mistakes...)
}

func checkName(name string) error {
	if n := len([]rune(name)); n == 0 || n > maxNameRunes {
		return fmt.Errorf("name has %d characters, not 1 to %d", n, maxNameRunes)
	}
	for i, c := range name {
		if c == unicode.ReplacementChar || !unicode.IsPrint(c) {
			return fmt.Errorf("name %q: byte %d is not printable", name, i)
		}
	}
	return nil
}

func checkDNSName(host string) error {
	for _, label := range strings.Split(host, ".") {
		if label == "" || len(label) > 63 || len(host) > 253 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return fmt.Errorf("host %q is neither an IP address nor a DNS name", host)
		}
	}
	return nil
}
