package vendors

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tableDate is the day of README.md's table.
func tableDate() time.Time { return time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC) }

// row is one of README.md's tables, without what only people check.
func row(c Certificate) string {
	return fmt.Sprintf("`%s` | `%s` | %s to %s | `%s`", c.File, strings.ReplaceAll(c.Certificate.Subject.String(), "|", "/"),
		c.Certificate.NotBefore.Format(time.DateOnly), c.Certificate.NotAfter.Format(time.DateOnly), c.Fingerprint.Hex())
}

func all(t *testing.T) []Certificate {
	t.Helper()
	list, err := All()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Each file's certificates stand in the table with their digests, and nothing else does.
func TestTable(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	roots, intermediates, found := strings.Cut(string(text), "## Intermediates")
	if !found {
		t.Fatal("README.md has no intermediates")
	}
	type entry struct {
		row  string
		root bool
	}
	want, have := map[entry]bool{}, map[entry]bool{}
	line := regexp.MustCompile("(?m)^\\| (`.* \\| `[0-9a-f]{64}`) \\| <(.*)> \\| (.+) \\|$")
	for i, section := range []string{roots, intermediates} {
		for _, match := range line.FindAllStringSubmatch(section, -1) {
			want[entry{match[1], i == 0}] = true
			if address, err := url.Parse(match[2]); err != nil || address.Host == "" {
				t.Errorf("%s: the address %q is none", match[1], match[2])
			}
		}
	}
	for _, c := range all(t) {
		e := entry{row(c), c.Root()}
		if have[e] {
			t.Errorf("bundled twice: %s", e.row)
		}
		have[e] = true
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("README.md (-) and files (+): %s", diff)
	}
	if len(want) < 100 {
		t.Errorf("the table has %d rows", len(want))
	}
}

func TestCertificates(t *testing.T) {
	roots, helpers := x509.NewCertPool(), x509.NewCertPool()
	list := all(t)
	for _, c := range list {
		if c.Root() {
			roots.AddCert(c.Certificate)
		} else {
			helpers.AddCert(c.Certificate)
		}
	}
	for _, c := range list {
		if err := judge(c, x509.VerifyOptions{Roots: roots, Intermediates: helpers}); err != nil {
			t.Errorf("%s: %s: %v", c.File, c.Certificate.Subject, err)
		}
	}
}

// judge holds a certificate against the rules of README.md.
func judge(c Certificate, options x509.VerifyOptions) error {
	cert := c.Certificate
	switch {
	case !cert.IsCA || !cert.BasicConstraintsValid:
		return fmt.Errorf("it is no CA")
	case tableDate().After(cert.NotAfter) || tableDate().Before(cert.NotBefore):
		return fmt.Errorf("it is valid from %s to %s", cert.NotBefore, cert.NotAfter)
	case c.Root() == strings.Contains(c.File, "-intermediates"):
		return fmt.Errorf("it is in the wrong file")
	case forbidden().MatchString(cert.Subject.String() + cert.Issuer.String()):
		return fmt.Errorf("it is of a laboratory or an emulator")
	}
	if c.Root() {
		return cert.CheckSignatureFrom(cert)
	}
	options.CurrentTime, options.KeyUsages = tableDate(), []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	known := *cert
	known.UnhandledCriticalExtensions = nil // of the intermediate itself: Roots.Check looks at them when a path is used
	_, err := known.Verify(options)
	return err
}

func forbidden() *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b(swtpm|libtpms|emulat\w*|simulat\w*|lab|test\w*|example|localca|assay)\b`)
}

// The rules refuse what they are for.
func TestCertificatesRefused(t *testing.T) {
	list := all(t)
	good := list[slices.IndexFunc(list, Certificate.Root)]
	if err := judge(good, x509.VerifyOptions{}); err != nil || !good.Root() {
		t.Fatalf("without a fault: %v", err)
	}
	for name, spoil := range map[string]func(*Certificate, *x509.Certificate){
		"no CA":          func(_ *Certificate, x *x509.Certificate) { x.IsCA = false },
		"expired":        func(_ *Certificate, x *x509.Certificate) { x.NotAfter = tableDate().Add(-time.Second) },
		"wrong file":     func(c *Certificate, _ *x509.Certificate) { c.File = "amd-intermediates.pem" },
		"an emulator's":  func(_ *Certificate, x *x509.Certificate) { x.Subject.CommonName = "swtpm-localca" },
		"a laboratory's": func(_ *Certificate, x *x509.Certificate) { x.Issuer.Organization = []string{"Lab"} },
		"another key's":  func(_ *Certificate, x *x509.Certificate) { x.Signature = make([]byte, len(x.Signature)) },
	} {
		c, x := good, *good.Certificate
		c.Certificate = &x
		spoil(&c, &x)
		if err := judge(c, x509.VerifyOptions{Roots: x509.NewCertPool()}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, text := range map[string]string{"empty": "", "no PEM": "hello", "bytes behind": string(good.PEM) + "x", "no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if _, err := parse("file.pem", []byte(text)); err == nil || !strings.Contains(err.Error(), "file.pem") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a maker's root is called is known from its publication, by digest: a changed file and a changed table would still be seen here.
func TestKnownDigests(t *testing.T) {
	known := map[string]bool{}
	for _, c := range all(t) {
		known[hex.EncodeToString(c.Fingerprint.Bytes())] = c.Root()
	}
	for _, digest := range []string{
		"cfeb02fecd55ad7a73c6e1d11985d4c47dee248ab63dcb66091a2489660443c3", // Infineon OPTIGA ECC Root CA
		"f27bf02c6e00c73d915eeb6a6a2f5fbf0c31ae0393149e6b5c31e41b113841c3", // GlobalSign Trusted Platform Module Root CA
		"870c7a35ceab3d59979f2c6a524042d404cb71518004350925fb2ced79a999da", // Microsoft TPM Root Certificate Authority 2014
		"2e1b3ba79af56d758be51697621bc4b9e8cee0983db3e749c55eb9b37c6d2ae0", // Intel TPM EK root
	} {
		if !known[digest] {
			t.Errorf("root %s is missing", digest)
		}
	}
}
