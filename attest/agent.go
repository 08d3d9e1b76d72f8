package attest

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
)

// MaxAgentIDBytes bounds an agent's name, as Keylime's registrar does.
const MaxAgentIDBytes = 80

// AgentID names an agent. The default is the hash of its endorsement key (EKHash); other names need a join token or an approval.
type AgentID string

// ParseAgentID accepts letters, digits and "_.-", at most MaxAgentIDBytes of them; the first is a letter or a digit.
func ParseAgentID(text string) (AgentID, error) {
	if text == "" {
		return "", fmt.Errorf("agent id is empty")
	}
	if len(text) > MaxAgentIDBytes {
		return "", fmt.Errorf("agent id has %d bytes, more than %d", len(text), MaxAgentIDBytes)
	}
	for i, c := range []byte(text) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || !strings.ContainsRune("_.-", rune(c))) {
			return "", fmt.Errorf("agent id %q: byte %d is %q; letters, digits and then also _ . - are accepted", text, i, c)
		}
	}
	return AgentID(text), nil
}

// EKHash names the owner of an endorsement key as Keylime's hash_ek does: SHA-256, in hex, over the PEM text of the
// key's SubjectPublicKeyInfo (64-column lines, trailing newline).
func EKHash(spki []byte) AgentID {
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	sum := sha256.Sum256(text)
	return AgentID(hex.EncodeToString(sum[:]))
}

// Label returns the DNS and Kubernetes label form of an EK hash: base32 of the same 32 bytes, 52 lower-case characters.
// ok is false for an id that is not an EK hash.
func (id AgentID) Label() (label string, ok bool) {
	sum, err := hex.DecodeString(string(id))
	if err != nil || len(sum) != sha256.Size {
		return "", false
	}
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum)), true
}
