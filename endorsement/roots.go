package endorsement

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/attest"
)

// Bounds on what an agent may send along with its EK certificate.
const (
	maxChain            = 10
	maxCertificateBytes = 8 << 10
)

// Roots are the pinned anchors of TPM vendors, with intermediates that help to build a path to them. The zero value endorses nothing.
// It is safe for concurrent use.
type Roots struct {
	mu            sync.RWMutex
	anchors       []*x509.Certificate
	intermediates []*x509.Certificate
	listed        map[attest.AgentID]bool // EKs by hash
}

// NewRoots returns a store that endorses nothing yet.
func NewRoots() *Roots { return &Roots{} }

// AddPEM adds the CA certificates of a PEM file, all or none, and returns them. A self-signed one becomes an anchor; any other is an
// intermediate, which is believed only where a path leads on from it to an anchor. Text between the blocks is ignored.
func (r *Roots) AddPEM(text []byte) ([]*x509.Certificate, error) {
	var added []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		cert, err := parseAuthority(block)
		if err != nil {
			return nil, fmt.Errorf("certificate file, block %d: %w", len(added)+1, err)
		}
		added = append(added, cert)
	}
	if len(added) == 0 {
		return nil, fmt.Errorf("certificate file: no PEM block in %d bytes", len(text))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, cert := range added {
		if selfSigned(cert) {
			r.anchors = append(r.anchors, cert)
		} else {
			r.intermediates = append(r.intermediates, cert)
		}
	}
	return added, nil
}

// AddKey accepts one EK by its hash, whatever vouches for it: for clouds whose TPMs have no EK certificates. It is a person's word for one key.
func (r *Roots) AddKey(ek attest.AgentID) error {
	if _, ok := ek.Label(); !ok || string(ek) != strings.ToLower(string(ek)) {
		return fmt.Errorf("%.80q is no hash of an endorsement key: want 64 hexadecimal digits in lower case", ek)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listed == nil {
		r.listed = make(map[attest.AgentID]bool)
	}
	r.listed[ek] = true
	return nil
}

func parseAuthority(block *pem.Block) (*x509.Certificate, error) {
	if block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("it is %.40q, not a CERTIFICATE", block.Type)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !cert.BasicConstraintsValid || !cert.IsCA {
		return nil, fmt.Errorf("%q is not a CA certificate", cert.Subject)
	}
	return cert, nil
}

// selfSigned reports whether cert verifies with its own key. A certificate that only names itself as issuer is no anchor.
func selfSigned(cert *x509.Certificate) bool {
	return string(cert.RawSubject) == string(cert.RawIssuer) && cert.CheckSignatureFrom(cert) == nil
}

// Label says what kind of word vouches for an EK.
type Label string

// The labels. FirstUse, where nothing vouches for it, is the label of whoever accepts that.
const (
	Vendor   Label = "Vendor"
	Listed   Label = "Listed"
	FirstUse Label = "FirstUse"
)

// Endorsement says who vouches for an EK. All members but Label are empty for a listed one.
type Endorsement struct {
	Label Label `json:"label"`
	// Root is the subject of the anchor, RootFingerprint the SHA-256 of its certificate.
	Root            string        `json:"root"`
	RootFingerprint attest.Digest `json:"rootFingerprint"`
	// Issuer, Serial (hex) and Fingerprint (SHA-256) are the EK certificate's.
	Issuer      string        `json:"issuer"`
	Serial      string        `json:"serial"`
	Fingerprint attest.Digest `json:"fingerprint"`
	NotAfter    time.Time     `json:"notAfter"`
}

// Check judges an EK certificate. chain is DER, the EK certificate first, then any intermediates in any order, as an agent reads them from its TPM;
// nothing in it is trusted. Failures are EkNotEndorsed, one per broken rule; with any of them the Endorsement is the zero value.
//
// The rules: the certificate's key is ek; its extended key usage is that of EK certificates; it is no CA; a path leads to an anchor whose every
// certificate is valid at the time, may sign certificates, keeps path lengths and, where it restricts extended usages, admits EK certificates.
// The subject may be empty, and a critical subjectAltName may hold directory names only; nothing else is relaxed. An EK for which all this fails is
// accepted where AddKey listed it, and labelled so.
func (r *Roots) Check(ek EK, chain [][]byte, at time.Time) (Endorsement, []attest.Failure) {
	endorsed, failures := r.checkChain(ek, chain, at)
	if len(failures) > 0 && r.lists(ek) {
		return Endorsement{Label: Listed}, nil
	}
	return endorsed, failures
}

func (r *Roots) lists(ek EK) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return ek.Valid() && r.listed[ek.ID()]
}

func (r *Roots) checkChain(ek EK, chain [][]byte, at time.Time) (Endorsement, []attest.Failure) {
	leaf, intermediates, err := parseChain(chain)
	if err != nil {
		return Endorsement{}, []attest.Failure{notEndorsed("%v", err)}
	}
	failures := judgeLeaf(ek, leaf)
	path, err := r.path(leaf, intermediates, at)
	if err != nil {
		failures = append(failures, notEndorsed("%s: %v", describe(leaf), err))
	}
	if len(failures) > 0 {
		return Endorsement{}, failures
	}
	root := path[len(path)-1]
	return Endorsement{
		Label:           Vendor,
		Root:            root.Subject.String(),
		RootFingerprint: attest.SHA256.Sum(root.Raw),
		Issuer:          leaf.Issuer.String(),
		Serial:          leaf.SerialNumber.Text(16),
		Fingerprint:     attest.SHA256.Sum(leaf.Raw),
		NotAfter:        leaf.NotAfter,
	}, nil
}

func notEndorsed(format string, args ...any) attest.Failure {
	return attest.Fail(attest.EkNotEndorsed, fmt.Sprintf(format, args...))
}

// path returns the certificates from leaf to an anchor.
func (r *Roots) path(leaf *x509.Certificate, sent []*x509.Certificate, at time.Time) ([]*x509.Certificate, error) {
	anchors, helpers := x509.NewCertPool(), x509.NewCertPool()
	r.mu.RLock()
	for _, cert := range r.anchors {
		anchors.AddCert(cert)
	}
	for _, cert := range r.intermediates {
		helpers.AddCert(cert)
	}
	r.mu.RUnlock()
	for _, cert := range sent {
		helpers.AddCert(cert)
	}
	paths, err := withHandledNames(leaf).Verify(x509.VerifyOptions{
		Roots:         anchors,
		Intermediates: helpers,
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // Go does not know the EK usage; admitsEKs looks at it below
	})
	if err != nil {
		return nil, err
	}
	var refused error
	for _, path := range paths {
		if refused = admitsEKs(path); refused == nil {
			return path, nil
		}
	}
	return nil, refused
}

func parseChain(chain [][]byte) (leaf *x509.Certificate, rest []*x509.Certificate, err error) {
	if len(chain) == 0 {
		return nil, nil, errors.New("no certificate was sent for the endorsement key")
	}
	if len(chain) > maxChain {
		return nil, nil, fmt.Errorf("%d certificates were sent, more than %d", len(chain), maxChain)
	}
	for i, der := range chain {
		if len(der) > maxCertificateBytes {
			return nil, nil, fmt.Errorf("certificate %d of the chain has %d bytes, more than %d", i, len(der), maxCertificateBytes)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d of the chain: %w", i, err)
		}
		rest = append(rest, cert)
	}
	return rest[0], rest[1:], nil
}
