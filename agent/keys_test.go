package agent

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/mtls"
)

// newKeyStore opens a key store in dir for the length of the test; calling the returned function is a restart.
func newKeyStore(t *testing.T, dir string, now time.Time) (keyStore, func()) {
	t.Helper()
	state, err := durable.Open(dir, stateVersion)
	if err != nil {
		t.Fatal(err)
	}
	return keyStore{state: state, rand: rand.Reader, now: func() time.Time { return now }}, func() {
		if err := state.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTransportKey(t *testing.T) {
	dir := t.TempDir()
	store, stop := newKeyStore(t, dir, time.Now())
	first, err := store.transportKey()
	if err != nil {
		t.Fatal(err)
	}
	stop()
	store, stop = newKeyStore(t, dir, time.Now())
	defer stop()
	again, err := store.transportKey()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, again) {
		t.Error("a restart changes the transport key")
	}
	block, rest := pem.Decode(first)
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 || !bytes.HasSuffix(first, []byte("-----\n")) {
		t.Fatalf("not the PEM of a public key: %q", first)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if public, ok := key.(*rsa.PublicKey); !ok || public.N.BitLen() != 2048 {
		t.Errorf("the transport key is a %T, want RSA-2048", key)
	}
	info, err := os.Stat(filepath.Join(dir, fileTransportKey))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the private key has mode %v", info.Mode())
	}
}

func TestTransportKeyDamaged(t *testing.T) {
	for _, row := range []struct{ name, text, want string }{
		{"no PEM", "damaged", "no PEM"},
		{"no key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "asn1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			store, stop := newKeyStore(t, dir, time.Now())
			defer stop()
			path := filepath.Join(dir, fileTransportKey)
			if err := os.WriteFile(path, []byte(row.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := store.transportKey()
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want one that names %s and %q", err, path, row.want)
			}
		})
	}
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	made := func(id attest.AgentID, address string, now time.Time) *tls.Certificate {
		t.Helper()
		store, stop := newKeyStore(t, dir, now)
		defer stop()
		certificate, err := store.certificate(id, address)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	first := made("agent-1", "10.0.3.7", now)
	if first.Leaf.Subject.CommonName != "agent-1" || first.Leaf.IsCA {
		t.Errorf("subject %v, CA %v", first.Leaf.Subject, first.Leaf.IsCA)
	}
	if err := first.Leaf.VerifyHostname("10.0.3.7"); err != nil {
		t.Error(err)
	}
	again := made("agent-1", "10.0.3.7", now)
	if diff := cmp.Diff(first.Certificate, again.Certificate); diff != "" {
		t.Error("a restart changes the certificate")
	}
	last := first
	for _, row := range []struct {
		name    string
		id      attest.AgentID
		address string
		now     time.Time
	}{
		{"another agent", "agent-2", "10.0.3.7", now},
		{"another address", "agent-2", "node.example", now},
		{"about to expire", "agent-2", "node.example", now.AddDate(certificateYears, 0, -5)},
	} {
		changed := made(row.id, row.address, row.now)
		if bytes.Equal(changed.Certificate[0], last.Certificate[0]) {
			t.Errorf("%s: the certificate stays", row.name)
		}
		if mtls.KeyDigest(changed.Leaf) != mtls.KeyDigest(first.Leaf) {
			t.Errorf("%s: the key changes", row.name)
		}
		last = changed
	}
}
