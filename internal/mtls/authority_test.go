package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/mtls"
)

func TestOpenCreatesThenLoadsTheSameAuthorities(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := mtls.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := mtls.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	bundles := func(a *mtls.Authority) []string {
		return []string{string(a.ServerCAs()), string(a.ClientCAs()), string(a.AgentCAs()), a.Pin().String()}
	}
	if diff := cmp.Diff(bundles(first), bundles(second)); diff != "" {
		t.Error(diff)
	}
	keys := map[string]bool{}
	for _, bundle := range bundles(first)[:3] {
		certs, err := mtls.ParseBundle([]byte(bundle))
		if err != nil {
			t.Fatal(err)
		}
		keys[mtls.KeyDigest(certs[0]).String()] = true
	}
	if len(keys) != 3 {
		t.Errorf("three authorities share keys: %v", keys)
	}
}

func TestCreateKeepsKeysPrivateAndLeavesNothingElse(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "ca")
	if _, err := mtls.Create(dir, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := mtls.Create(dir, nil); err == nil {
		t.Error("existing authorities were replaced")
	}
	modes := map[string]string{}
	err := filepath.Walk(parent, func(path string, info os.FileInfo, err error) error {
		if err == nil && path != parent {
			modes[strings.TrimPrefix(path, parent+"/")] = info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"ca":                "drwx------",
		"ca/servers-ca.crt": "-rw-r--r--", "ca/servers-ca.key": "-rw-------",
		"ca/clients-ca.crt": "-rw-r--r--", "ca/clients-ca.key": "-rw-------",
		"ca/agents-ca.crt": "-rw-r--r--", "ca/agents-ca.key": "-rw-------",
	}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Error(diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, dir string) error
		want  string
	}{
		{"a missing key", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "agents-ca.key")) }, "no such file"},
		{"a missing certificate", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "agents-ca.crt")) }, "no such file"},
		{"a key that others read", func(t *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, "servers-ca.key"), 0o640) }, "chmod 600"},
		{"the key of another CA", func(t *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "agents-ca.key"), filepath.Join(dir, "clients-ca.key"))
		}, "is not the one CA certificate"},
		{"a key that is none", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "clients-ca.key"), []byte("secret"), 0o600)
		}, "not a PEM block"},
		{"a certificate that is none", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "clients-ca.crt"), nil, 0o600)
		}, "no certificate in PEM"},
		{"a key in the place of a certificate", func(t *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "clients-ca.key"), filepath.Join(dir, "clients-ca.crt"))
		}, "not a certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ca")
			if _, err := mtls.Create(dir, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := mtls.Load(dir, nil); err != nil {
				t.Fatalf("unspoilt: %v", err)
			}
			if err := row.spoil(t, dir); err != nil {
				t.Fatal(err)
			}
			_, err := mtls.Open(dir, nil)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error holds the key: %v", err)
			}
		})
	}
	t.Run("expired", func(t *testing.T) {
		c := newClock()
		dir := filepath.Join(t.TempDir(), "ca")
		if _, err := mtls.Create(dir, c.now); err != nil {
			t.Fatal(err)
		}
		c.pass(11 * 365 * 24 * time.Hour)
		if _, err := mtls.Load(dir, c.now); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("have %v", err)
		}
	})
}

func TestIssueFillsCertificate(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	const day = 24 * time.Hour
	for _, row := range []struct {
		request  mtls.Request
		lifetime time.Duration
		usages   []x509.ExtKeyUsage
		issuer   []byte
	}{
		{mtls.Request{Role: mtls.Server, Name: "s", Hosts: []string{"a.b", "::1"}}, 90 * day, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, a.ServerCAs()},
		{mtls.Request{Role: mtls.Agent, Name: "n"}, 90 * day, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, a.AgentCAs()},
		{mtls.Request{Role: mtls.Administrator, Name: "Ada Ü"}, 365 * day, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, a.ClientCAs()},
		{mtls.Request{Role: mtls.Viewer, Name: "v", Lifetime: time.Hour}, time.Hour, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, a.ClientCAs()},
		{mtls.Request{Role: mtls.Viewer, Name: "v", Lifetime: 100 * 365 * day}, 10 * 365 * day, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, a.ClientCAs()},
	} {
		issued := issue(t, a, row.request)
		cert := issued.Certificate
		if got := cert.NotAfter.Sub(c.now()); got != row.lifetime {
			t.Errorf("%+v: lifetime %s", row.request, got)
		}
		if diff := cmp.Diff(row.usages, cert.ExtKeyUsage); diff != "" || cert.IsCA || cert.Subject.CommonName != row.request.Name {
			t.Errorf("%+v: usages %s CA %v name %q", row.request, diff, cert.IsCA, cert.Subject.CommonName)
		}
		if !strings.HasSuffix(string(issued.CertPEM), string(row.issuer)) {
			t.Errorf("%+v: the chain does not end in its CA", row.request)
		}
		for _, host := range row.request.Hosts {
			if err := cert.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestIssueNamesEveryMistake(t *testing.T) {
	a := newAuthority(t, newClock())
	for _, row := range []struct {
		name    string
		request mtls.Request
		want    []string
	}{
		{"nothing", mtls.Request{}, []string{`unknown role ""`, "0 characters"}},
		{"server without host", mtls.Request{Role: mtls.Server, Name: "s"}, []string{"needs a host"}},
		{"client with host", mtls.Request{Role: mtls.Viewer, Name: "v", Hosts: []string{host}}, []string{"takes no host"}},
		{"all at once", mtls.Request{Role: mtls.Server, Name: strings.Repeat("x", 65), Hosts: []string{"a b", "a..b"}, Lifetime: -1},
			[]string{"65 characters", `"a b"`, `"a..b"`, "negative"}},
		{"terminal escape", mtls.Request{Role: mtls.Viewer, Name: "v\x1b[2J"}, []string{"byte 1 is not printable"}},
		{"CSR that is none", mtls.Request{Role: mtls.Viewer, Name: "v", CSR: []byte("x")}, []string{"not a PEM block"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := a.Issue(row.request)
			if err == nil {
				t.Fatal("issued")
			}
			for _, want := range row.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v lacks %q", err, want)
				}
			}
		})
	}
}

func TestIssueTakesOnlyTheKeyOfACSR(t *testing.T) {
	a := newAuthority(t, newClock())
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"evil.test"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	request := mtls.Request{Role: mtls.Viewer, Name: "v", CSR: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}
	issued := issue(t, a, request)
	if !key.PublicKey.Equal(issued.Certificate.PublicKey) || issued.KeyPEM != nil || issued.Certificate.DNSNames != nil {
		t.Errorf("key %v, names %v", issued.Certificate.PublicKey, issued.Certificate.DNSNames)
	}
	if _, err := a.Renewing(request); err == nil {
		t.Error("a CSR is renewed without its key")
	}

	der[len(der)-1] ^= 1 // the asker's own signature
	request.CSR = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if _, err := a.Issue(request); err == nil {
		t.Error("a CSR with a false signature was accepted")
	}
}

func TestSelfSignRefusesWhatNeedsAnAuthority(t *testing.T) {
	for _, request := range []mtls.Request{{Name: "n", Role: mtls.Administrator}, {Name: "n", CSR: []byte("x")}, {}} {
		if _, err := mtls.SelfSign(request, newKey(t), time.Now()); err == nil {
			t.Errorf("%+v: signed", request)
		}
	}
}

func TestRenewingReplacesCertificateBeforeItsEnd(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	renewing, err := a.Renewing(mtls.Request{Role: mtls.Server, Name: "s", Hosts: []string{host}, Lifetime: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	address, _ := listen(t, mtls.ServerConfig(renewing))
	serial := func() string {
		config, err := mtls.Peer{Host: host, Now: c.now}.TrustCA(a.ServerCAs())
		if err != nil {
			t.Fatal(err)
		}
		state, err := dial(address, config)
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	c.pass(time.Hour)
	if serial() != first {
		t.Error("renewed in its first half")
	}
	c.pass(59 * time.Minute)
	second := serial()
	if second == first {
		t.Error("not renewed with a third of its time left")
	}
	c.pass(3 * time.Hour) // the second is over; a server without connections for long must not present it
	if serial() == second {
		t.Error("an expired certificate was presented")
	}
}
