package ima

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
)

// digestField says how a template writes the file's digest.
type digestField uint8

const (
	digestNone  digestField = iota // not known
	digestPlain                    // d: 20 bytes
	digestNG                       // d-ng: "sha256:" NUL digest
	digestNGv2                     // d-ngv2: "ima:sha256:" NUL digest
)

// tailField says what follows the name.
type tailField uint8

const (
	tailNone tailField = iota
	tailSignature
	tailBuffer
)

type layout struct {
	name   string
	digest digestField
	tail   tailField
}

// maxName is the longest name that the template can hold.
func (l layout) maxName() int {
	if l.digest == digestPlain {
		return legacyNameMax
	}
	return MaxName
}

// The kernel's templates (ima_template.c, builtin_templates) that are understood; a record holds the index. Later indices are names
// that a list brings itself.
const (
	templateIMA = iota
	templateNG
	templateSig
	templateBuf
	templateNGv2
	templateSigv2
	knownTemplates
)

// layoutOf returns the layout of a known template.
func layoutOf(template uint8) layout {
	switch template {
	case templateIMA:
		return layout{"ima", digestPlain, tailNone}
	case templateNG:
		return layout{"ima-ng", digestNG, tailNone}
	case templateSig:
		return layout{"ima-sig", digestNG, tailSignature}
	case templateBuf:
		return layout{"ima-buf", digestNG, tailBuffer}
	case templateNGv2:
		return layout{"ima-ngv2", digestNGv2, tailNone}
	case templateSigv2:
		return layout{"ima-sigv2", digestNGv2, tailSignature}
	}
	return layout{}
}

// templateIndex finds a known template by name.
func templateIndex(name []byte) (uint8, bool) {
	switch string(name) {
	case "ima":
		return templateIMA, true
	case "ima-ng":
		return templateNG, true
	case "ima-sig":
		return templateSig, true
	case "ima-buf":
		return templateBuf, true
	case "ima-ngv2":
		return templateNGv2, true
	case "ima-sigv2":
		return templateSigv2, true
	}
	return 0, false
}

// Sizes of the legacy template ima, whose data are hashed without lengths (ima_crypto.c, ima_calc_field_array_hash_tfm).
const (
	legacyDigestSize = 20
	legacyNameMax    = 255 // IMA_EVENT_NAME_LEN_MAX
	legacyHashedSize = legacyDigestSize + legacyNameMax + 1
)

// maxPrefix bounds what stands before a digest, far above the kernel's longest.
const maxPrefix = 64

// fields are the parts of an entry's template data.
type fields struct {
	prefix []byte // "sha256:" or "ima:sha256:"; empty for the template ima
	digest []byte
	name   []byte // without the closing NUL
	nameAt int    // where name begins in the data
	tail   []byte
}

// algorithm cuts the prefix into digest type, empty before version 2, and algorithm.
func (f fields) algorithm() (kind, algorithm []byte) {
	name, _ := bytes.CutSuffix(f.prefix, []byte{':'})
	if kind, algorithm, found := bytes.Cut(name, []byte{':'}); found {
		return kind, algorithm
	}
	return nil, name
}

// hash returns the digest's algorithm, or 0 for those of the kernel's that attest does not know.
func (f fields) hash(l layout) attest.Hash {
	switch {
	case string(f.prefix) == "sha256:":
		return attest.SHA256
	case l.digest == digestPlain:
		return attest.SHA1 // there is room for no other
	}
	_, name := f.algorithm()
	h, err := attest.ParseHash(string(name))
	if err != nil {
		return 0
	}
	return h
}

// splitFields takes the template data of a known template apart, as the binary list holds them. Nothing may be left over.
func splitFields(l layout, data []byte) (fields, error) {
	if l.digest == digestPlain {
		return splitLegacy(data)
	}
	var f fields
	digest, rest, err := takeField(data)
	if err != nil {
		return f, fmt.Errorf("digest field: %w", err)
	}
	nul := bytes.IndexByte(digest, 0)
	if nul < 0 {
		return f, errors.New("digest field: no NUL after the algorithm")
	}
	f.prefix, f.digest = digest[:nul], digest[nul+1:]
	if err := checkPrefix(l.digest, f.prefix); err != nil {
		return f, err
	}
	if len(f.digest) > attest.MaxDigestSize {
		return f, fmt.Errorf("digest field: digest of %d bytes, more than %d", len(f.digest), attest.MaxDigestSize)
	}
	name, rest, err := takeField(rest)
	if err != nil {
		return f, fmt.Errorf("name field: %w", err)
	}
	if len(name) == 0 || bytes.IndexByte(name, 0) != len(name)-1 {
		return f, fmt.Errorf("name field %.80q: not one string that ends in NUL", name)
	}
	f.name = name[:len(name)-1]
	f.nameAt = len(data) - len(rest) - len(name)
	if len(f.name) > MaxName {
		return f, fmt.Errorf("name field: %d bytes, more than %d", len(f.name), MaxName)
	}
	if l.tail != tailNone {
		if f.tail, rest, err = takeField(rest); err != nil {
			return f, fmt.Errorf("third field: %w", err)
		}
	}
	if len(rest) != 0 {
		return f, fmt.Errorf("%d bytes after the last field", len(rest))
	}
	return f, nil
}

func splitLegacy(data []byte) (fields, error) {
	if len(data) < legacyDigestSize {
		return fields{}, fmt.Errorf("digest field: %d bytes, not %d", len(data), legacyDigestSize)
	}
	name, rest, err := takeField(data[legacyDigestSize:])
	if err != nil {
		return fields{}, fmt.Errorf("name field: %w", err)
	}
	if len(name) > legacyNameMax || bytes.IndexByte(name, 0) >= 0 {
		return fields{}, fmt.Errorf("name field %.80q: not a string of at most %d bytes", name, legacyNameMax)
	}
	if len(rest) != 0 {
		return fields{}, fmt.Errorf("%d bytes after the last field", len(rest))
	}
	return fields{digest: data[:legacyDigestSize], name: name, nameAt: legacyDigestSize + 4}, nil
}

// takeField cuts one field with its 32-bit length off data.
func takeField(data []byte) (field, rest []byte, err error) {
	if len(data) < 4 {
		return nil, nil, fmt.Errorf("length cut off after %d bytes", len(data))
	}
	size := binary.LittleEndian.Uint32(data)
	data = data[4:]
	if size > MaxField {
		return nil, nil, fmt.Errorf("length %d, more than %d", size, MaxField)
	}
	if uint64(size) > uint64(len(data)) {
		return nil, nil, fmt.Errorf("length %d, but %d bytes are left", size, len(data))
	}
	return data[:size:size], data[size:], nil
}

// checkPrefix checks what stands before a digest: "sha256:", or "ima:sha256:" in d-ngv2. Old kernels write ":" alone for an
// algorithm that they cannot name.
func checkPrefix(kind digestField, prefix []byte) error {
	if kind == digestNG && string(prefix) == "sha256:" {
		return nil
	}
	if len(prefix) > maxPrefix {
		return fmt.Errorf("digest field: algorithm %.80q of %d bytes, more than %d", prefix, len(prefix), maxPrefix)
	}
	colons := 0
	for _, c := range prefix {
		switch {
		case c == ':':
			colons++
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-':
		default:
			return fmt.Errorf("digest field: algorithm %.80q", prefix)
		}
	}
	want := 1
	if kind == digestNGv2 {
		want = 2
	}
	if colons != want || prefix[len(prefix)-1] != ':' {
		return fmt.Errorf("digest field: algorithm %.80q", prefix)
	}
	return nil
}
