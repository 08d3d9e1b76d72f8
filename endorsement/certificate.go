package endorsement

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
)

// oidEKCertificate is tcg-kp-EKCertificate, the extended key usage of EK certificates (EK Credential Profile, section 3.2.16).
func oidEKCertificate() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 1} }

func oidSubjectAltName() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// judgeLeaf checks what the EK certificate itself must say, apart from its path.
func judgeLeaf(ek EK, leaf *x509.Certificate) []attest.Failure {
	var failures []attest.Failure
	fail := func(format string, args ...any) {
		failures = append(failures, notEndorsed(describe(leaf)+": "+format, args...))
	}
	if spki, err := x509.MarshalPKIXPublicKey(leaf.PublicKey); err != nil {
		fail("its key is of a kind that no endorsement key is: %v", err)
	} else if !ek.Valid() || !bytes.Equal(spki, ek.spki) {
		fail("it certifies another key, %s, than the endorsement key, %s", attest.EKHash(spki), ek.ID())
	}
	if !slices.ContainsFunc(leaf.UnknownExtKeyUsage, oidEKCertificate().Equal) {
		fail("its extended key usage does not hold %s (EK certificate)", oidEKCertificate())
	}
	if leaf.BasicConstraintsValid && leaf.IsCA {
		fail("it is a CA certificate")
	}
	return failures
}

func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("EK certificate %x of %q", cert.SerialNumber, cert.Issuer.String())
}

// admitsEKs checks the extended key usages of the intermediates of a path from leaf to anchor: a CA that is restricted to, say, TLS servers endorses
// no TPM. The anchor is pinned by a person. An anchor that was sent as leaf is a path of one.
func admitsEKs(path []*x509.Certificate) error {
	for _, cert := range path[1:max(1, len(path)-1)] {
		restricted := len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0
		if restricted && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny) && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate().Equal) {
			return fmt.Errorf("the intermediate %q may not sign EK certificates by its extended key usage", cert.Subject.String())
		}
	}
	return nil
}

// withHandledNames returns leaf without the mark that its critical subjectAltName was not understood, where that extension holds directory names only.
// EK certificates name the TPM's maker, model and version there, beside an empty subject (EK Credential Profile, section 3.2.9), and Go's
// verifier knows no directory names.
func withHandledNames(leaf *x509.Certificate) *x509.Certificate {
	unhandled := slices.IndexFunc(leaf.UnhandledCriticalExtensions, oidSubjectAltName().Equal)
	if unhandled < 0 {
		return leaf
	}
	for _, extension := range leaf.Extensions {
		if extension.Id.Equal(oidSubjectAltName()) && !directoryNamesOnly(extension.Value) {
			return leaf
		}
	}
	handled := *leaf
	handled.UnhandledCriticalExtensions = slices.Delete(slices.Clone(leaf.UnhandledCriticalExtensions), unhandled, unhandled+1)
	return &handled
}

// directoryNamesOnly reports whether a GeneralNames value (RFC 5280, section 4.2.1.6) holds well-formed directory names and nothing else.
func directoryNamesOnly(der []byte) bool {
	const directoryName = 4
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 || len(names) == 0 {
		return false
	}
	for _, name := range names {
		if name.Class != asn1.ClassContextSpecific || name.Tag != directoryName || !name.IsCompound {
			return false
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(name.Bytes, &rdns); err != nil || len(rest) > 0 || len(rdns) == 0 {
			return false
		}
	}
	return true
}
