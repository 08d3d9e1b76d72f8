package dossier

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/quote"
)

// Version is the only format so far.
const Version = "assay.dossier/v1"

// MaxBytes bounds a file: a list and documents of tens of megabytes each, in base64.
const MaxBytes = 512 << 20

// ErrMalformed says that a file is no dossier.
var ErrMalformed = errors.New("no dossier")

// A ChangedError says which part of a file is not what was written.
type ChangedError struct{ Part string }

// Error names the part.
func (e *ChangedError) Error() string { return e.Part + ": it was changed, its digest is another" }

// Dossier is a quote with what was known about it. Node, Boot and At are the server's words.
type Dossier struct {
	Version string         `json:"version"`
	Node    attest.AgentID `json:"node"`
	Boot    string         `json:"boot"`
	// At is when the quote was accepted.
	At time.Time `json:"at"`
	// Nonce was asked with. Quote holds the structures as the TPM made them.
	Nonce string    `json:"nonce"`
	Quote quote.Raw `json:"quote"`
	// AK and EK are TPM2B_PUBLIC structures, Chain the EK's certificates as DER, leaf first.
	AK    []byte   `json:"ak"`
	EK    []byte   `json:"ek"`
	Chain [][]byte `json:"chain,omitempty"`
	// List is the measurement list in the kernel's ASCII form up to what the quote covers, BootLog the TCG event log.
	List    []byte `json:"list,omitempty"`
	BootLog []byte `json:"bootLog,omitempty"`
	// Policies are the documents of the verdict. RefusedIMAPolicies count as approved by none of them.
	Policies           []Policy        `json:"policies"`
	RefusedIMAPolicies []attest.Digest `json:"refusedIMAPolicies,omitempty"`
	// Digests name the parts, SHA-256 each. They find damage; who changes a part on purpose changes its digest too, and fails by the quote.
	Digests map[string]attest.Digest `json:"digests"`
}

// Policy is a document with the name that the verdict gave it.
type Policy struct {
	Ref      attest.PolicyRef `json:"ref"`
	Document []byte           `json:"document"`
}

// Encode writes the file: indented JSON of exactly one form, with the digests of the parts as they are.
func (d Dossier) Encode() ([]byte, error) {
	d.Version = Version
	parts, err := d.parts()
	if err != nil {
		return nil, err
	}
	d.Digests = map[string]attest.Digest{}
	for name, part := range parts {
		d.Digests[name] = attest.SHA256.Sum(part)
	}
	return d.format()
}

func (d Dossier) format() ([]byte, error) {
	text, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode dossier: %w", err)
	}
	return append(text, '\n'), nil
}

// parts are the bytes of what the file holds, by name.
func (d Dossier) parts() (map[string][]byte, error) {
	about, err := json.Marshal([]any{d.Node, d.Boot, d.At, d.RefusedIMAPolicies})
	if err != nil {
		return nil, fmt.Errorf("encode dossier: %w", err)
	}
	signed, err := json.Marshal(d.Quote)
	if err != nil {
		return nil, fmt.Errorf("encode dossier: quote: %w", err)
	}
	parts := map[string][]byte{"about": about, "nonce": []byte(d.Nonce), "quote": signed, "ak": d.AK, "ek": d.EK, "list": d.List, "bootLog": d.BootLog}
	for i, certificate := range d.Chain {
		parts["chain "+strconv.Itoa(i)] = certificate
	}
	for i, p := range d.Policies {
		ref, err := json.Marshal(p.Ref)
		if err != nil {
			return nil, fmt.Errorf("encode dossier: policy: %w", err)
		}
		parts["policy "+strconv.Itoa(i)] = append(ref, p.Document...)
	}
	return parts, nil
}

// Parse reads a file. It takes only the one form that Encode writes, so that there is no byte in it that decides nothing. ErrMalformed;
// a *ChangedError names a part whose digest is another.
func Parse(text []byte) (Dossier, error) {
	if len(text) > MaxBytes {
		return Dossier{}, fmt.Errorf("%w: it has %d bytes, more than %d", ErrMalformed, len(text), MaxBytes)
	}
	var d Dossier
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return Dossier{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if d.Version != Version {
		return Dossier{}, fmt.Errorf("%w: version %.80q, want %q", ErrMalformed, d.Version, Version)
	}
	canonical, err := d.format()
	if err != nil {
		return Dossier{}, err
	}
	if !bytes.Equal(canonical, text) {
		return Dossier{}, fmt.Errorf("%w: from byte %d on it is not written as a dossier is", ErrMalformed, firstDifference(canonical, text))
	}
	return d, d.checkDigests()
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// checkDigests returns an error for each part that is not what was written.
func (d Dossier) checkDigests() error {
	parts, err := d.parts()
	if err != nil {
		return err
	}
	var changed []error
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		if d.Digests[name] != attest.SHA256.Sum(parts[name]) {
			changed = append(changed, &ChangedError{name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Digests)) {
		if _, ok := parts[name]; !ok {
			changed = append(changed, fmt.Errorf("%w: the part %.80q is missing", ErrMalformed, name))
		}
	}
	return errors.Join(changed...)
}
