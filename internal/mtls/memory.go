package mtls

import (
	"fmt"
	"path/filepath"
	"time"
)

// New makes authorities in memory, for a program that keeps them elsewhere than in a folder (Files). A nil clock is time.Now.
func New(now func() time.Time) (*Authority, error) {
	a := &Authority{now: clockOr(now), cas: map[realm]authority{}}
	for _, r := range realms() {
		ca, err := newAuthority(r, a.now())
		if err != nil {
			return nil, err
		}
		a.cas[r] = ca
	}
	return a, nil
}

// Files returns the files that Create would write, by name. The keys among them are secrets.
func (a *Authority) Files() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, r := range realms() {
		key, err := encodeKey(a.cas[r].key)
		if err != nil {
			return nil, fmt.Errorf("encode key of the %s' CA: %w", r, err)
		}
		files[filepath.Base(r.keyFile(""))], files[filepath.Base(r.certFile(""))] = key, encodeCertificates(a.cas[r].cert)
	}
	return files, nil
}

// FromFiles reads what Files returned, and refuses what Load refuses. Files of other names are ignored. A nil clock is time.Now.
func FromFiles(files map[string][]byte, now func() time.Time) (*Authority, error) {
	a := &Authority{now: clockOr(now), cas: map[realm]authority{}}
	for _, r := range realms() {
		ca, err := r.parse(files)
		if err != nil {
			return nil, fmt.Errorf("read the %s' CA: %w", r, err)
		}
		if !a.now().Before(ca.cert.NotAfter) {
			return nil, fmt.Errorf("read the %s' CA: it expired at %s", r, ca.cert.NotAfter.Format(time.RFC3339))
		}
		a.cas[r] = ca
	}
	return a, nil
}

func (r realm) parse(files map[string][]byte) (authority, error) {
	certName, keyName := filepath.Base(r.certFile("")), filepath.Base(r.keyFile(""))
	certs, err := ParseBundle(files[certName])
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w", certName, err)
	}
	key, err := parseKey(files[keyName])
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w", keyName, err)
	}
	if len(certs) != 1 || !certs[0].IsCA || !key.PublicKey.Equal(certs[0].PublicKey) {
		return authority{}, fmt.Errorf("%s is not the one CA certificate of %s", certName, keyName)
	}
	return authority{cert: certs[0], key: key}, nil
}

// Expires returns the end of validity of the authority that ends first.
func (a *Authority) Expires() time.Time {
	var end time.Time
	for _, ca := range a.cas {
		if end.IsZero() || ca.cert.NotAfter.Before(end) {
			end = ca.cert.NotAfter
		}
	}
	return end
}
