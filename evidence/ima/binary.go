package ima

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// maxTemplateName bounds the name of a template; one that is made by ima_template_fmt is as long as its format.
const maxTemplateName = 255

// ParseBinary reads a list as binary_runtime_measurements shows it, or a piece of it that begins with an entry. The list keeps raw,
// which must not be changed afterwards.
//
// The size of the template hash column is not in the list (the file's name tells it); it is found from the first entry. An error names
// the offset. Entries of a template that is not known are kept with their data, whose hash is checked like any other.
func ParseBinary(raw []byte) (List, error) {
	if len(raw) > MaxListBytes {
		return List{}, fmt.Errorf("%w: list of %d bytes, more than %d", ErrLimit, len(raw), MaxListBytes)
	}
	l := List{raw: raw}
	if len(raw) == 0 {
		return l, nil
	}
	columnHash, err := findColumn(raw)
	if err != nil {
		return List{}, err
	}
	l.columnHash = columnHash
	for offset := 0; offset < len(raw); {
		next, err := l.parseRecord(offset)
		if err != nil {
			return List{}, fmt.Errorf("entry %d at offset %d: %w", len(l.records), offset, err)
		}
		offset = next
	}
	return l, nil
}

// findColumn returns the algorithm of the column: the one behind whose size a template's name follows. A wrong guess would take
// digest bytes for a length and a name, and ends in an error or in false template hashes.
func findColumn(raw []byte) (attest.Hash, error) {
	for _, h := range attest.Hashes() {
		if name, _, err := takeTemplateName(raw, 4+h.Size()); err == nil && printable(name) {
			return h, nil
		}
	}
	return 0, errors.New("offset 0: no template name follows a template hash of 20, 32, 48 or 64 bytes (big-endian kernels need ima_canonical_fmt)")
}

func printable(name []byte) bool {
	for _, c := range name {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

// takeTemplateName reads the 32-bit length at offset and the name after it.
func takeTemplateName(raw []byte, offset int) (name []byte, next int, err error) {
	if offset < 0 || offset > len(raw)-4 {
		return nil, 0, errors.New("cut off before the template's name")
	}
	size := binary.LittleEndian.Uint32(raw[offset:])
	offset += 4
	if size == 0 || size > maxTemplateName {
		return nil, 0, fmt.Errorf("template name of %d bytes, not 1 to %d", size, maxTemplateName)
	}
	if uint64(size) > uint64(len(raw)-offset) {
		return nil, 0, fmt.Errorf("template name of %d bytes, but %d are left", size, len(raw)-offset)
	}
	end := offset + int(size)
	return raw[offset:end], end, nil
}

// parseRecord reads the entry at offset and returns where the next one begins.
func (l *List) parseRecord(offset int) (next int, err error) {
	name, dataAt, err := takeTemplateName(l.raw, offset+4+l.columnHash.Size())
	if err != nil {
		return 0, err
	}
	index := binary.LittleEndian.Uint32(l.raw[offset:])
	if index >= pcr.Count {
		return 0, fmt.Errorf("PCR %d, not 0 to %d", index, pcr.Count-1)
	}
	r := record{column: uint32(offset + 4), pcr: uint8(index)}
	if r.template, err = l.internTemplate(name); err != nil {
		return 0, err
	}
	shape := layoutOf(r.template)
	data, dataAt, err := l.delimit(shape, dataAt)
	if err != nil {
		return 0, fmt.Errorf("template %s: %w", name, err)
	}
	r.data, r.size = uint32(dataAt), uint32(len(data))
	if shape.digest != digestNone {
		f, err := splitFields(shape, data)
		if err != nil {
			return 0, fmt.Errorf("template %s: %w", name, err)
		}
		r.nameAt, r.nameSize = uint16(f.nameAt), uint16(len(f.name))
		if bytes.IndexByte(f.name, '\n') >= 0 {
			r.flags |= flagNewline
		}
	}
	r.flags |= l.checkColumn(r)
	return dataAt + len(data), l.add(r)
}

// delimit finds the template data and where they begin: behind their length, which the template ima does not have.
func (l *List) delimit(shape layout, offset int) (data []byte, at int, err error) {
	rest := l.raw[offset:]
	if shape.digest != digestPlain {
		data, _, err = takeField(rest)
		return data, offset + 4, err
	}
	if len(rest) < legacyDigestSize {
		return nil, 0, fmt.Errorf("digest cut off after %d bytes", len(rest))
	}
	name, _, err := takeField(rest[legacyDigestSize:])
	if err != nil {
		return nil, 0, fmt.Errorf("name field: %w", err)
	}
	return rest[:legacyDigestSize+4+len(name)], offset, nil
}

// internTemplate finds or adds a template's name.
func (l *List) internTemplate(name []byte) (uint8, error) {
	if index, ok := templateIndex(name); ok {
		return index, nil
	}
	for i, known := range l.named {
		if known == string(name) {
			return uint8(knownTemplates + i), nil
		}
	}
	if !printable(name) {
		return 0, fmt.Errorf("template name %.80q", name)
	}
	if len(l.named) == MaxTemplates {
		return 0, fmt.Errorf("%w: template %.80q after %d others that are not known", ErrLimit, name, MaxTemplates)
	}
	l.named = append(l.named, string(name))
	return uint8(knownTemplates + len(l.named) - 1), nil
}

// Binary returns the list as binary_runtime_measurements shows it: for a list that ParseBinary read, its bytes.
func (l List) Binary() []byte {
	var to []byte
	for _, r := range l.records {
		to = binary.LittleEndian.AppendUint32(to, uint32(r.pcr))
		to = append(to, l.column(r)...)
		name := l.templateName(r.template)
		to = binary.LittleEndian.AppendUint32(to, uint32(len(name)))
		to = append(to, name...)
		if r.template != templateIMA {
			to = binary.LittleEndian.AppendUint32(to, r.size)
		}
		to = append(to, l.data(r)...)
	}
	return to
}
