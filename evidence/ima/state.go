package ima

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/assay-project/assay/attest"
)

// State is where a replay stands: what later rounds of the same boot go on from. The zero value is the start of a list. It holds no
// secrets, and whoever stores it must keep others from changing it.
type State struct {
	// Position is how many entries from boot on are proven.
	Position uint64 `json:"position"`
	// PCR is the PCR's value at Position; the zero Digest stands for its value at boot.
	PCR attest.Digest `json:"pcr,omitzero"`
	// Forms are the ways to extend the bank that explain everything up to Position; none stands for all.
	Forms Forms `json:"forms,omitempty"`
	// Newlines counts the newlines in the names of the proven entries. Keylime's agents count positions in lines.
	Newlines uint64 `json:"newlines,omitempty"`
	// Held is what the list showed beyond Position. The next accepted quote must cover it unchanged.
	Held *Held `json:"held,omitempty"`
}

// Held stands for the entries that a list showed beyond a match. Its size does not depend on their number, which an agent chooses.
type Held struct {
	Count uint64 `json:"count"`
	// Digest is the SHA-256 over the entries in order: PCR, whether it is a violation, template and template data.
	Digest attest.Digest `json:"digest"`
}

// Line is Position for an agent that counts the lines of the ASCII list instead of its entries.
func (s State) Line() uint64 { return s.Position + s.Newlines }

// Padded reports whether the bank holds only SHA-1 digests padded with zeros.
func (s State) Padded() bool { return s.Forms != 0 && !s.Forms.has(native) }

// form is one way in which kernels extend a bank.
type form uint8

const (
	// native: the bank's own hash of the template data; violations are ones.
	native form = iota
	// padded: SHA-1 and zeros; violations are twenty times 0xff and zeros. Kernels before 5.8, and any bank that Linux has no hash for.
	padded
	// paddedOnes: SHA-1 and zeros, but violations are ones over the bank's size. Since 5.8, when the kernel was built without the
	// bank's hash (ima_crypto.c pads, ima_init_digests does not).
	paddedOnes
	formCount
)

func (f form) String() string { return [formCount]string{"native", "padded", "padded-ones"}[f] }

// agrees reports whether f and g extend the same, for lists with or without ordinary entries and violations.
func (f form) agrees(g form, c content) bool {
	sameEntry := (f == native) == (g == native)
	sameViolation := (f == padded) == (g == padded)
	return (sameEntry || !c.entries) && (sameViolation || !c.violations)
}

// content says what kinds of entries a part of a list holds.
type content struct{ entries, violations bool }

// Forms is a set of ways to extend a bank: native, padded and padded-ones.
type Forms uint8

const allForms Forms = 1<<formCount - 1

func (s Forms) has(f form) bool { return s&(1<<f) != 0 }

// String lists the set.
func (s Forms) String() string {
	var words []string
	for f := range formCount {
		if s.has(f) {
			words = append(words, f.String())
		}
	}
	return strings.Join(words, ",")
}

// MarshalText writes String's form.
func (s Forms) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads String's form.
func (s *Forms) UnmarshalText(text []byte) error {
	var set Forms
	for word := range strings.SplitSeq(string(text), ",") {
		known := false
		for f := range formCount {
			if word == f.String() {
				set, known = set|1<<f, true
			}
		}
		if !known && len(text) > 0 {
			return fmt.Errorf("forms %.80q: unknown form %.40q", text, word)
		}
	}
	*s = set
	return nil
}

// held describes the records from index from to end.
func (l *List) held(from, end int) *Held {
	if from >= end {
		return nil
	}
	run := sha256.New()
	var head [10]byte
	for _, r := range l.records[from:end] {
		name := l.templateName(r.template)
		head[0], head[1] = r.pcr, r.flags&flagViolation
		binary.LittleEndian.PutUint32(head[2:], uint32(len(name)))
		binary.LittleEndian.PutUint32(head[6:], r.size)
		run.Write(head[:])
		run.Write([]byte(name))
		run.Write(l.data(r))
	}
	digest, _ := attest.NewDigest(attest.SHA256, run.Sum(nil)) // fails for another size only
	return &Held{Count: uint64(end - from), Digest: digest}
}
