package api

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/assay-project/assay/attest"
)

// PathListedKeys lists the EKs that a person's word accepts without a certificate.
const PathListedKeys = PathEndorsements + "/keys"

// MaxNoteBytes bounds ListedKey.Note.
const MaxNoteBytes = 256

// ListedKey is an EK that counts as endorsed, with the label Listed, although no vendor vouches for it: POST PathListedKeys takes EK and Note.
type ListedKey struct {
	// EK is the hash of the key, the default id of its agent: SHA-256 over the PEM text of the SubjectPublicKeyInfo, in lower-case hex.
	EK    attest.AgentID `json:"ek"`
	Note  string         `json:"note,omitempty"`
	Added time.Time      `json:"added,omitzero"`
	By    string         `json:"by,omitempty"`
}

// Validate refuses what cannot be listed.
func (k ListedKey) Validate() error {
	if _, ok := k.EK.Label(); !ok || strings.ToLower(string(k.EK)) != string(k.EK) {
		return fmt.Errorf("ek: %.80q is no hash of an endorsement key: want 64 hexadecimal digits in lower case", k.EK)
	}
	if len(k.Note) > MaxNoteBytes || strings.ContainsFunc(k.Note, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Errorf("note: want at most %d bytes of printable text", MaxNoteBytes)
	}
	return nil
}
