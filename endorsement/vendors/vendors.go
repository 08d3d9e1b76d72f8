// Package vendors holds the certificates of TPM makers and of clouds with virtual TPMs, as they published them.
//
// README.md is the table of them: subject, validity, SHA-256 digest and the vendor's address of each. The package's tests hold the files against that
// table; whether a root is to be believed, which ones a server believes, and the judgement of EK certificates are left to others. It does no I/O.
package vendors

import (
	"bytes"
	"crypto/x509"
	"embed"
	"encoding/pem"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
)

//go:embed *.pem
var files embed.FS

// Certificate is a bundled root or intermediate.
type Certificate struct {
	// File is its PEM file, which is named after the vendor.
	File        string
	Certificate *x509.Certificate
	// PEM is the certificate alone, Fingerprint the SHA-256 of its DER bytes.
	PEM         []byte
	Fingerprint attest.Digest
}

// Root reports whether it stands for itself; any other one only helps to lead to a root.
func (c Certificate) Root() bool {
	return bytes.Equal(c.Certificate.RawSubject, c.Certificate.RawIssuer)
}

// All parses the bundled certificates, in the order of files. An error means that the program was built from other files than were tested.
func All() ([]Certificate, error) {
	entries, err := files.ReadDir(".")
	if err != nil {
		return nil, fmt.Errorf("bundled certificates: %w", err)
	}
	var all []Certificate
	for _, entry := range entries {
		text, err := files.ReadFile(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("bundled certificates: %w", err)
		}
		found, err := parse(entry.Name(), text)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// parse reads a PEM file. Text between the blocks is for people.
func parse(name string, text []byte) ([]Certificate, error) {
	var found []Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("bundled certificates: %s: certificate %d: %w", name, len(found)+1, err)
		}
		found = append(found, Certificate{
			File: name, Certificate: c, PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), Fingerprint: attest.SHA256.Sum(c.Raw),
		})
	}
	if len(found) == 0 || strings.TrimSpace(string(text)) != "" {
		return nil, fmt.Errorf("bundled certificates: %s holds no certificate, or something behind the last one", name)
	}
	return found, nil
}
