package mtls

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/durable"
)

const (
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// backdate makes a new certificate valid for peers whose clock is a little behind.
	backdate = 5 * time.Minute
)

// realm is what an authority is for; its text names the files.
type realm string

const (
	servers realm = "servers"
	clients realm = "clients"
	agents  realm = "agents"
)

func realms() []realm { return []realm{servers, clients, agents} }

func (r Role) realm() realm {
	switch r {
	case Server:
		return servers
	case Agent:
		return agents
	}
	return clients
}

// Authority holds the three CAs with their keys.
type Authority struct {
	now func() time.Time
	cas map[realm]authority // one for each of realms()
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Open loads the authorities from dir, or creates them if dir does not exist. A nil clock is time.Now.
func Open(dir string, now func() time.Time) (*Authority, error) {
	switch _, err := os.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return Create(dir, now)
	case err != nil:
		return nil, fmt.Errorf("open certificate authorities: %w", err)
	}
	return Load(dir, now)
}

// Create makes the authorities and writes each as NAME-ca.crt and NAME-ca.key (0600) into dir, which must not hold anything yet.
// dir appears as a whole or not at all: a crash never leaves some of the three to be made up for later.
func Create(dir string, now func() time.Time) (*Authority, error) {
	a := &Authority{now: clockOr(now), cas: map[realm]authority{}}
	parent := filepath.Dir(dir)
	temporary, err := os.MkdirTemp(parent, "."+filepath.Base(dir)+".tmp-*") // mode 0700
	if err != nil {
		return nil, fmt.Errorf("create certificate authorities: %w", err)
	}
	if err := a.createIn(temporary); err != nil {
		return nil, fmt.Errorf("create certificate authorities: %w", errors.Join(err, os.RemoveAll(temporary)))
	}
	if err := os.Rename(temporary, dir); err != nil {
		return nil, fmt.Errorf("create certificate authorities: %w", errors.Join(err, os.RemoveAll(temporary)))
	}
	if err := durable.SyncDir(parent); err != nil {
		return nil, fmt.Errorf("create certificate authorities: %w", err)
	}
	return a, nil
}

func (a *Authority) createIn(dir string) error {
	for _, r := range realms() {
		ca, err := newAuthority(r, a.now())
		if err != nil {
			return err
		}
		key, err := encodeKey(ca.key)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(r.keyFile(dir), key, 0o600); err != nil {
			return err
		}
		if err := durable.WriteFile(r.certFile(dir), encodeCertificates(ca.cert), 0o644); err != nil {
			return err
		}
		a.cas[r] = ca
	}
	return nil
}

func newAuthority(r realm, now time.Time) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, fmt.Errorf("make key of the %s' CA: %w", r, err)
	}
	// Some TLS stacks find issuers by subject alone, so the authorities of two installations must not share one.
	suffix := make([]byte, 4)
	if _, err := rand.Read(suffix); err != nil {
		return authority{}, fmt.Errorf("make name of the %s' CA: %w", r, err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Assay " + string(r) + " CA " + hex.EncodeToString(suffix)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	cert, err := sign(template, template, &key.PublicKey, key)
	if err != nil {
		return authority{}, fmt.Errorf("make the %s' CA: %w", r, err)
	}
	return authority{cert: cert, key: key}, nil
}

// Load reads the authorities that Create wrote. It refuses a key that others can read, a key of another certificate, and an expired
// or missing authority. A nil clock is time.Now.
func Load(dir string, now func() time.Time) (*Authority, error) {
	a := &Authority{now: clockOr(now), cas: map[realm]authority{}}
	for _, r := range realms() {
		ca, err := r.load(dir)
		if err != nil {
			return nil, fmt.Errorf("load the %s' CA: %w", r, err)
		}
		if !a.now().Before(ca.cert.NotAfter) {
			return nil, fmt.Errorf("load the %s' CA: %s expired at %s", r, r.certFile(dir), ca.cert.NotAfter.Format(time.RFC3339))
		}
		a.cas[r] = ca
	}
	return a, nil
}

func (r realm) certFile(dir string) string { return filepath.Join(dir, string(r)+"-ca.crt") }
func (r realm) keyFile(dir string) string  { return filepath.Join(dir, string(r)+"-ca.key") }

func (r realm) load(dir string) (authority, error) {
	text, err := os.ReadFile(r.certFile(dir))
	if err != nil {
		return authority{}, err
	}
	certs, err := ParseBundle(text)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w", r.certFile(dir), err)
	}
	info, err := os.Stat(r.keyFile(dir))
	if err != nil {
		return authority{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return authority{}, fmt.Errorf("%s can be read by others (mode %04o): chmod 600 it", r.keyFile(dir), info.Mode().Perm())
	}
	if text, err = os.ReadFile(r.keyFile(dir)); err != nil {
		return authority{}, err
	}
	key, err := parseKey(text)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w", r.keyFile(dir), err)
	}
	if len(certs) != 1 || !certs[0].IsCA || !key.PublicKey.Equal(certs[0].PublicKey) {
		return authority{}, fmt.Errorf("%s is not the one CA certificate of %s", r.certFile(dir), r.keyFile(dir))
	}
	return authority{cert: certs[0], key: key}, nil
}

// ServerCAs returns the certificates, in PEM, that prove a server.
func (a *Authority) ServerCAs() []byte { return encodeCertificates(a.cas[servers].cert) }

// ClientCAs returns the certificates, in PEM, that prove administrators and services.
func (a *Authority) ClientCAs() []byte { return encodeCertificates(a.cas[clients].cert) }

// AgentCAs returns the certificates, in PEM, that prove agents, and nobody else.
func (a *Authority) AgentCAs() []byte { return encodeCertificates(a.cas[agents].cert) }

// Pin returns the key digest of the servers' CA, for join tokens.
func (a *Authority) Pin() attest.Digest { return KeyDigest(a.cas[servers].cert) }

// sign makes a certificate with a random serial number and parses it back.
func sign(template, parent *x509.Certificate, public any, key any) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
