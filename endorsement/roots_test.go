package endorsement

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

func noon() time.Time { return time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC) }

// authority is a CA of a test's vendor.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a CA below parent, or a self-signed one where parent is the zero value, after change.
func issue(t testing.TB, parent authority, name string, change func(*x509.Certificate)) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{Organization: []string{"Lab"}, CommonName: name},
		NotBefore:             noon().AddDate(-1, 0, 0),
		NotAfter:              noon().AddDate(1, 0, 0),
		BasicConstraintsValid: true,
		IsCA:                  true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if change != nil {
		change(template)
	}
	made := authority{key: newKey(t)}
	if parent.cert == nil {
		parent = authority{cert: template, key: made.key}
	}
	made.cert = create(t, template, parent, made.key.Public())
	return made
}

func create(t testing.TB, template *x509.Certificate, parent authority, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// generalNames is a subjectAltName of one directory name, as TPM vendors write it, followed by more.
func generalNames(t testing.TB, more ...asn1.RawValue) []byte {
	t.Helper()
	name, err := asn1.Marshal(pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: "id:00001014"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "swtpm"}},
		{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 3}, Value: "id:20191023"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	names := append([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}}, more...)
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func sanExtension(value []byte) []pkix.Extension {
	return []pkix.Extension{{Id: oidSubjectAltName(), Critical: true, Value: value}}
}

// ekTemplate is an EK certificate as vendors make it: empty subject, critical subjectAltName with a directory name, the EK usage.
func ekTemplate(t testing.TB) *x509.Certificate {
	t.Helper()
	return &x509.Certificate{
		SerialNumber:          big.NewInt(0x4711),
		NotBefore:             noon().AddDate(0, -1, 0),
		NotAfter:              noon().AddDate(0, 1, 0),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate()},
		ExtraExtensions:       sanExtension(generalNames(t)),
	}
}

func pemOf(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, cert := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return text
}

func rootsOf(t testing.TB, certs ...*x509.Certificate) *Roots {
	t.Helper()
	roots := NewRoots()
	if _, err := roots.AddPEM(pemOf(certs...)); err != nil {
		t.Fatal(err)
	}
	return roots
}

// expectRefused wants EkNotEndorsed with the given reason, and no Endorsement.
func expectRefused(t *testing.T, got Endorsement, failures []attest.Failure, reason string) {
	t.Helper()
	if len(failures) != 1 || failures[0].ID != attest.EkNotEndorsed || !strings.Contains(failures[0].Detail, reason) {
		t.Errorf("failures %+v, expected one EkNotEndorsed with %q", failures, reason)
	}
	if got != (Endorsement{}) {
		t.Errorf("endorsement %+v beside a failure", got)
	}
}

func TestCheckEndorses(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	upper := issue(t, root, "Upper", nil)
	lower := issue(t, upper, "Lower", func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidEKCertificate()} })
	direct := create(t, ekTemplate(t), root, ek.Key())
	deep := create(t, ekTemplate(t), lower, ek.Key())
	for _, row := range []struct {
		name  string
		store []*x509.Certificate
		chain [][]byte
	}{
		{"directly below the root", []*x509.Certificate{root.cert}, [][]byte{direct.Raw}},
		{"intermediates from the chain", []*x509.Certificate{root.cert}, [][]byte{deep.Raw, lower.cert.Raw, upper.cert.Raw}},
		{"intermediates in another order, with the root", []*x509.Certificate{root.cert}, [][]byte{deep.Raw, root.cert.Raw, upper.cert.Raw, lower.cert.Raw}},
		{"intermediates from the store", []*x509.Certificate{root.cert, upper.cert, lower.cert}, [][]byte{deep.Raw}},
		{"one from each", []*x509.Certificate{root.cert, upper.cert}, [][]byte{deep.Raw, lower.cert.Raw}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got, failures := rootsOf(t, row.store...).Check(ek, row.chain, noon())
			if failures != nil {
				t.Fatal(failures)
			}
			leaf, _ := x509.ParseCertificate(row.chain[0])
			want := Endorsement{
				Label: Vendor, Root: "CN=Root,O=Lab", RootFingerprint: attest.SHA256.Sum(root.cert.Raw),
				Issuer: leaf.Issuer.String(), Serial: "4711", Fingerprint: attest.SHA256.Sum(leaf.Raw), NotAfter: leaf.NotAfter,
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b attest.Digest) bool { return a == b })); diff != "" {
				t.Errorf("endorsement (-want +got):\n%s", diff)
			}
		})
	}
}

// Each row breaks one rule of the EK certificate; without it the certificate passes TestCheckEndorses.
func TestCheckLeafRules(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	roots := rootsOf(t, root.cert)
	dns := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("tpm.example")}
	otherName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: []byte{0x06, 0x01, 0x2a}}
	emptyName := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: []byte{0x30, 0x00}}
	for _, row := range []struct {
		rule, reason string
		change       func(*x509.Certificate)
		refused      bool
	}{
		{"nothing", "", func(*x509.Certificate) {}, false},
		{"subject that is not empty", "", func(c *x509.Certificate) { c.Subject.CommonName = "TPM" }, false},
		{"alternative name not critical", "", func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false }, false},
		{"no alternative name", "", func(c *x509.Certificate) { c.ExtraExtensions = nil }, false},
		{"no usage", "extended key usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil }, true},
		{"usage of an AK certificate", "extended key usage", func(c *x509.Certificate) { c.UnknownExtKeyUsage[0] = asn1.ObjectIdentifier{2, 23, 133, 8, 3} }, true},
		{"any usage", "extended key usage", func(c *x509.Certificate) {
			c.UnknownExtKeyUsage, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
		}, true},
		{"a CA", "it is a CA certificate", func(c *x509.Certificate) { c.IsCA = true }, true},
		{"expired", "expired or is not yet valid", func(c *x509.Certificate) { c.NotAfter = noon().Add(-time.Second) }, true},
		{"not yet valid", "expired or is not yet valid", func(c *x509.Certificate) { c.NotBefore = noon().Add(time.Second) }, true},
		{"other critical extension", "unhandled critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}, true},
		{"other name in the alternative name", "unhandled critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = sanExtension(generalNames(t, otherName))
		}, true},
		{"empty directory name", "unhandled critical extension", func(c *x509.Certificate) {
			c.ExtraExtensions = sanExtension(generalNames(t, emptyName))
		}, true},
		// Go handles DNS names itself: this one is no quirk and needs no exception.
		{"DNS name beside the directory name", "", func(c *x509.Certificate) { c.ExtraExtensions = sanExtension(generalNames(t, dns)) }, false},
	} {
		t.Run(row.rule, func(t *testing.T) {
			template := ekTemplate(t)
			row.change(template)
			got, failures := roots.Check(ek, [][]byte{create(t, template, root, ek.Key()).Raw}, noon())
			if row.refused {
				expectRefused(t, got, failures, row.reason)
			} else if failures != nil {
				t.Error(failures)
			}
		})
	}
}

func TestCheckPathRules(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	for _, row := range []struct {
		rule, reason string
		change       func(*x509.Certificate)
	}{
		{"nothing", "", nil},
		{"not a CA", "cannot sign this kind of certificate", func(c *x509.Certificate) { c.IsCA = false }},
		{"no basic constraints", "cannot sign this kind of certificate", func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }},
		{"may not sign", "cannot sign this kind of certificate", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }},
		{"expired", "expired or is not yet valid", func(c *x509.Certificate) { c.NotAfter = noon().Add(-time.Second) }},
		{"for TLS servers only", "may not sign EK certificates", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }},
	} {
		t.Run(row.rule, func(t *testing.T) {
			lower := issue(t, root, "Lower", row.change)
			got, failures := rootsOf(t, root.cert).Check(ek, [][]byte{create(t, ekTemplate(t), lower, ek.Key()).Raw, lower.cert.Raw}, noon())
			if row.change != nil {
				expectRefused(t, got, failures, row.reason)
			} else if failures != nil {
				t.Error(failures)
			}
		})
	}
}

func TestCheckPathLength(t *testing.T) {
	ek := realEK(t)
	for length, refused := range map[int]bool{0: true, 1: false} {
		root := issue(t, authority{}, "Root", func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = length, length == 0 })
		lower := issue(t, root, "Lower", nil)
		got, failures := rootsOf(t, root.cert).Check(ek, [][]byte{create(t, ekTemplate(t), lower, ek.Key()).Raw, lower.cert.Raw}, noon())
		if refused {
			expectRefused(t, got, failures, "too many intermediates")
		} else if failures != nil {
			t.Error(failures)
		}
	}
}

// What a hostile agent may send as its chain leads nowhere by itself.
func TestCheckTrustsOnlyTheStore(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	mallory := issue(t, authority{}, "Root", nil) // same name, other key
	good := create(t, ekTemplate(t), root, ek.Key())
	forged := create(t, ekTemplate(t), mallory, ek.Key())
	selfIssued := create(t, ekTemplate(t), authority{cert: ekTemplate(t), key: mallory.key}, ek.Key())
	roots := rootsOf(t, root.cert)
	if _, failures := roots.Check(ek, [][]byte{good.Raw, mallory.cert.Raw}, noon()); failures != nil {
		t.Errorf("a useless certificate in the chain: %v", failures)
	}
	for name, row := range map[string]struct {
		roots  *Roots
		chain  [][]byte
		reason string
	}{
		"root from the chain":     {roots, [][]byte{forged.Raw, mallory.cert.Raw}, "signed by unknown authority"},
		"unknown issuer":          {roots, [][]byte{selfIssued.Raw}, "signed by unknown authority"},
		"empty store":             {NewRoots(), [][]byte{good.Raw, root.cert.Raw}, "signed by unknown authority"},
		"zero store":              {new(Roots), [][]byte{good.Raw}, "signed by unknown authority"},
		"intermediate is no root": {rootsOf(t, issue(t, root, "Lower", nil).cert), [][]byte{good.Raw}, "signed by unknown authority"},
		"no certificate":          {roots, nil, "no certificate was sent"},
		"long chain":              {roots, make([][]byte, maxChain+1), "certificates were sent"},
		"long certificate":        {roots, [][]byte{make([]byte, maxCertificateBytes+1)}, "more than 8192"},
		"bytes after it":          {roots, [][]byte{append(append([]byte(nil), good.Raw...), 0)}, "certificate 0 of the chain"},
		"malformed intermediate":  {roots, [][]byte{good.Raw, {0x30, 0x03}}, "certificate 1 of the chain"},
	} {
		t.Run(name, func(t *testing.T) {
			got, failures := row.roots.Check(ek, row.chain, noon())
			expectRefused(t, got, failures, row.reason)
		})
	}
}

// An anchor sent as EK certificate is a path of one, which breaks three rules: other key, no EK usage, a CA.
func TestCheckReportsEveryBrokenRule(t *testing.T) {
	root := issue(t, authority{}, "Root", nil)
	got, failures := rootsOf(t, root.cert).Check(realEK(t), [][]byte{root.cert.Raw}, noon())
	if len(failures) != 3 || got != (Endorsement{}) {
		t.Errorf("%+v %+v, expected three failures", got, failures)
	}
}

func TestCheckComparesKeys(t *testing.T) {
	ek := realEK(t)
	root := issue(t, authority{}, "Root", nil)
	cert := create(t, ekTemplate(t), root, newKey(t).Public())
	got, failures := rootsOf(t, root.cert).Check(ek, [][]byte{cert.Raw}, noon())
	expectRefused(t, got, failures, "it certifies another key")
	got, failures = rootsOf(t, root.cert).Check(EK{}, [][]byte{create(t, ekTemplate(t), root, ek.Key()).Raw}, noon())
	expectRefused(t, got, failures, "it certifies another key")
}

func TestAddPEM(t *testing.T) {
	root := issue(t, authority{}, "Root", nil)
	lower := issue(t, root, "Lower", nil)
	leaf := create(t, ekTemplate(t), root, newKey(t).Public())
	added, err := NewRoots().AddPEM(append([]byte("# a vendor's notes\n"), pemOf(root.cert, lower.cert)...))
	if err != nil || len(added) != 2 {
		t.Fatalf("%d certificates, %v", len(added), err)
	}
	key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})
	for name, row := range map[string]struct {
		text []byte
		want string
	}{
		"empty":       {nil, "no PEM block"},
		"der":         {root.cert.Raw, "no PEM block"},
		"private key": {append(pemOf(root.cert), key...), `block 2: it is "PRIVATE KEY"`},
		"not a CA":    {append(pemOf(root.cert), pemOf(leaf)...), "block 2: \"\" is not a CA certificate"},
		"cut off":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw[:100]}), "block 1: x509"},
	} {
		roots := NewRoots()
		if _, err := roots.AddPEM(row.text); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, expected %q", name, err, row.want)
		}
		if len(roots.anchors)+len(roots.intermediates) != 0 {
			t.Errorf("%s: part of the file was added", name)
		}
	}
}

func FuzzCheck(f *testing.F) {
	ek := realEK(f)
	root := issue(f, authority{}, "Root", nil)
	roots := rootsOf(f, root.cert)
	good := create(f, ekTemplate(f), root, ek.Key()).Raw
	f.Add(good, root.cert.Raw)
	f.Add(good[:200], []byte{})
	f.Fuzz(func(t *testing.T, leaf, intermediate []byte) {
		got, failures := roots.Check(ek, [][]byte{leaf, intermediate}, noon())
		if (got == Endorsement{}) != (len(failures) > 0) {
			t.Fatalf("%+v beside %v", got, failures)
		}
		if len(failures) == 0 && string(leaf) != string(good) {
			t.Fatalf("endorsed %x", leaf)
		}
	})
}

func FuzzDirectoryNamesOnly(f *testing.F) {
	f.Add(generalNames(f))
	f.Add([]byte{0x30, 0x02, 0xa4, 0x00})
	f.Fuzz(func(_ *testing.T, der []byte) { directoryNamesOnly(der) })
}

func FuzzAddPEM(f *testing.F) {
	f.Add(pemOf(issue(f, authority{}, "Root", nil).cert))
	f.Fuzz(func(t *testing.T, text []byte) {
		if added, err := NewRoots().AddPEM(text); (len(added) > 0) != (err == nil) {
			t.Fatalf("%d certificates and %v", len(added), err)
		}
	})
}
