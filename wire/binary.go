package wire

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Bounds of what is read from one body; the largest real values are far below.
const (
	maxBinaryBytes      = 64 << 10
	maxCertificates     = 10
	maxCertificateBytes = 8 << 10
)

// Binary is a byte string: base64 in what we write, base64 or hexadecimal (with or without 0x) in what we read, as the reference.
// null and "" are no bytes.
type Binary []byte

// MarshalJSON writes standard base64, or null for a nil Binary.
func (b Binary) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(b)) }

// UnmarshalJSON reads a string or null.
func (b *Binary) UnmarshalJSON(text []byte) error {
	s, err := unquote[Binary](text)
	if err != nil || s == "" {
		*b = nil
		return err
	}
	decoded, err := DecodeBinary(s)
	if err != nil {
		return mismatch[Binary](err)
	}
	*b = decoded
	return nil
}

// DecodeBinary reads standard base64 with padding, and what is not that as hexadecimal. Digits that are both are base64.
func DecodeBinary(text string) ([]byte, error) {
	if len(text) > maxBinaryBytes {
		return nil, fmt.Errorf("text of %d bytes, more than %d", len(text), maxBinaryBytes)
	}
	if !strings.ContainsAny(text, "\r\n") { // which the decoder would pass over
		if decoded, err := base64.StdEncoding.Strict().DecodeString(text); err == nil {
			return decoded, nil
		}
	}
	decoded, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil {
		return nil, fmt.Errorf("text %s that is neither base64 nor hexadecimal", shown(text))
	}
	return decoded, nil
}

// Certificate is one certificate in DER: base64 in what we write, base64 or PEM in what we read. Its ASN.1 is not looked at. null and "" are none.
type Certificate []byte

// MarshalJSON writes base64 of the DER, or null.
func (c Certificate) MarshalJSON() ([]byte, error) { return json.Marshal([]byte(c)) }

// UnmarshalJSON reads a string or null; of a chain it takes the first.
func (c *Certificate) UnmarshalJSON(text []byte) error {
	var chain CertificateChain
	if err := chain.UnmarshalJSON(text); err != nil {
		return err
	}
	*c = nil
	if len(chain) > 0 {
		*c = chain[0]
	}
	return nil
}

// CertificateChain is a certificate with its issuers in DER, the leaf first: PEM in what we write, PEM or base64 of one in what we read.
// Their ASN.1 is not looked at. null and "" are none.
type CertificateChain [][]byte

// MarshalJSON writes PEM blocks, or "" for an empty chain, as the reference's agents do.
func (c CertificateChain) MarshalJSON() ([]byte, error) {
	var text strings.Builder
	for _, der := range c {
		text.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return json.Marshal(text.String())
}

// UnmarshalJSON reads a string or null.
func (c *CertificateChain) UnmarshalJSON(text []byte) error {
	s, err := unquote[CertificateChain](text)
	if err != nil {
		return err
	}
	chain, err := parseChain(s)
	if err != nil {
		return mismatch[CertificateChain](err)
	}
	*c = chain
	return nil
}

func parseChain(text string) (CertificateChain, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	if !strings.HasPrefix(text, "-----BEGIN") {
		der, err := DecodeBinary(text)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		return CertificateChain{der}, boundCertificate(1, der)
	}
	var chain CertificateChain
	for text != "" {
		n := len(chain) + 1
		if n > maxCertificates {
			return nil, fmt.Errorf("more than %d certificates", maxCertificates)
		}
		if !strings.HasPrefix(text, "-----BEGIN") {
			return nil, fmt.Errorf("text %s before PEM block %d", shown(text), n)
		}
		block, rest := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("PEM block %d that is not well formed", n)
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("PEM block %d of type %.40q", n, block.Type)
		}
		if err := boundCertificate(n, block.Bytes); err != nil {
			return nil, err
		}
		chain = append(chain, block.Bytes)
		text = strings.TrimSpace(string(rest))
	}
	return chain, nil
}

func boundCertificate(n int, der []byte) error {
	if len(der) == 0 || len(der) > maxCertificateBytes {
		return fmt.Errorf("certificate %d of %d bytes, not 1 to %d", n, len(der), maxCertificateBytes)
	}
	return nil
}

// unquote reads a JSON string; null is "".
func unquote[T any](text []byte) (string, error) {
	if string(text) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		var other *json.UnmarshalTypeError
		if errors.As(err, &other) {
			return "", mismatch[T](errors.New(other.Value))
		}
		return "", err
	}
	return s, nil
}

// mismatch makes the error to which encoding/json adds the name of the member.
func mismatch[T any](err error) error {
	return &json.UnmarshalTypeError{Value: err.Error(), Type: reflect.TypeFor[T]()}
}

// shown cuts and quotes a text for an error message.
func shown(text string) string {
	const most = 40
	if len(text) > most {
		return fmt.Sprintf("%q...", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
