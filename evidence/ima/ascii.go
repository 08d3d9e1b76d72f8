package ima

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// maxHead is more than what stands before the name in a line: PCR, column, template and digest.
const maxHead = 512

// ParseASCII reads a list as ascii_runtime_measurements shows it, or a piece of it that begins with an entry. The text is not kept.
//
// An error names the line. It means that the text is no list: a template that is not known is one too, because its data cannot be
// rebuilt from text. A template hash that is not the hash of its entry is no error; Replay reports it.
//
// A name may hold newlines, which the kernel does not escape. Where a line does not hash to its column, the lines after it are joined
// to it as long as the last newline lies within a name of MaxName bytes; the hash decides. A violation has no hash: it ends before the
// next line that looks like an entry.
func ParseASCII(text []byte) (List, error) {
	if len(text) > MaxListBytes {
		return List{}, fmt.Errorf("%w: list of %d bytes, more than %d", ErrLimit, len(text), MaxListBytes)
	}
	p := asciiParser{text: text, line: 1}
	p.list.raw = make([]byte, 0, len(text)/4*3) // column and data of an entry take about this much of its line
	p.list.records = make([]record, 0, len(text)/128+1)
	for p.pos < len(text) {
		if p.plain() {
			continue
		}
		if err := p.next(); err != nil {
			return List{}, fmt.Errorf("line %d: %w", p.line, err)
		}
	}
	return p.list, nil
}

type asciiParser struct {
	list      List
	text      []byte
	pos, line int
	// mark is the end of what taken entries occupy in list.raw; an attempt at the next one writes from there.
	mark int
}

var errNoNewline = errors.New("no newline at the end")

// next reads the entry at pos, whatever it is.
func (p *asciiParser) next() error {
	end := p.lineEnd(p.pos)
	if end < 0 {
		return errNoNewline
	}
	r, err := p.parse(p.text[p.pos:end])
	if err != nil || r.flags&(flagViolation|flagFalse) != 0 {
		return p.join(end, r.flags)
	}
	p.pos, p.line, p.mark = end+1, p.line+1, len(p.list.raw)
	return p.list.add(r)
}

// join finds the end of an entry whose first line, up to end, is none by itself. A candidate costs a hash: it must be followed by what
// looks like an entry, of which few fit in a name, and after the first false hash there are no further attempts.
func (p *asciiParser) join(end int, flags uint8) error {
	first := end
	last := first // the newline before end, once lines are joined
	allowed := p.list.falseHashes == 0 || flags&flagViolation != 0
	for allowed && end >= 0 && last-p.pos <= maxHead+MaxName {
		if p.startsEntry(end + 1) {
			r, err := p.parse(p.text[p.pos:end])
			if err == nil && r.flags&flagFalse == 0 {
				return p.take(r, end)
			}
		}
		last, end = end, p.lineEnd(end+1)
	}
	r, err := p.parse(p.text[p.pos:first])
	if err != nil {
		return err
	}
	return p.take(r, first)
}

// take adds r, whose text may hold newlines and ends before the one at end.
func (p *asciiParser) take(r record, end int) error {
	if lines := bytes.Count(p.text[p.pos:end], []byte{'\n'}); lines > 0 {
		r.flags |= flagNewline
		p.line += lines
	}
	p.pos, p.line, p.mark = end+1, p.line+1, len(p.list.raw)
	return p.list.add(r)
}

// lineEnd returns the place of the first newline from pos on, or -1.
func (p *asciiParser) lineEnd(pos int) int {
	if size := bytes.IndexByte(p.text[pos:], '\n'); size >= 0 {
		return pos + size
	}
	return -1
}

// startsEntry reports whether the text ends at pos or what follows looks like an entry. It makes no errors: a hostile name asks for each
// of its bytes.
func (p *asciiParser) startsEntry(pos int) bool {
	if pos == len(p.text) {
		return true
	}
	_, rest, ok := cutPCR(p.text[pos:])
	size := p.list.columnHash.Size()
	if !ok || size == 0 || len(rest) <= 2*size || rest[2*size] != ' ' {
		return false
	}
	template, _, found := bytes.Cut(rest[2*size+1:min(len(rest), 2*size+maxHead)], []byte{' '})
	if _, ok := templateIndex(template); !ok || !found {
		return false
	}
	var column [attest.MaxDigestSize]byte
	return decodeHex(column[:size], rest[:2*size])
}

// head is what stands before the template data.
type head struct {
	pcr, template uint8
	column        []byte // digits
}

// splitHead cuts PCR, column and template off a line: "%2d ", digits, " name ".
func (p *asciiParser) splitHead(line []byte) (h head, rest []byte, err error) {
	index, rest, ok := cutPCR(line)
	if !ok {
		return h, nil, fmt.Errorf("PCR %.8q is not a number from 0 to %d", line, pcr.Count-1)
	}
	h.pcr = index
	digits := 2 * p.list.columnHash.Size()
	if digits == 0 || len(rest) <= digits || rest[digits] != ' ' {
		if digits, err = p.measureColumn(rest); err != nil {
			return h, nil, err
		}
	}
	h.column, rest = rest[:digits], rest[digits+1:]
	size := bytes.IndexByte(rest, ' ')
	if size < 0 {
		return h, nil, errors.New("nothing after the template")
	}
	if h.template, ok = templateIndex(rest[:size]); !ok {
		return h, nil, fmt.Errorf("template %.80q cannot be read from text", rest[:size])
	}
	return h, rest[size+1:], nil
}

// measureColumn returns the number of digits before the next space. The first line's number is the list's.
func (p *asciiParser) measureColumn(rest []byte) (int, error) {
	digits := bytes.IndexByte(rest, ' ')
	if digits < 0 {
		return 0, errors.New("nothing after the template hash")
	}
	if want := 2 * p.list.columnHash.Size(); want != 0 {
		return 0, fmt.Errorf("template hash of %d digits in a list of %d", digits, want)
	}
	if _, ok := hashOfSize(digits / 2); !ok || digits%2 != 0 {
		return 0, fmt.Errorf("template hash %.140q has %d digits, which is no bank's size", rest[:digits], digits)
	}
	return digits, nil
}

// cutPCR reads the kernel's "%2d ".
func cutPCR(line []byte) (index uint8, rest []byte, ok bool) {
	if len(line) < 3 || line[2] != ' ' {
		return 0, nil, false
	}
	tens, units := line[0]-'0', line[1]-'0'
	if line[0] == ' ' {
		tens = 0
	} else if tens == 0 {
		return 0, nil, false
	}
	if tens > 2 || units > 9 || tens*10+units >= pcr.Count {
		return 0, nil, false
	}
	return tens*10 + units, line[3:], true
}

// parse rewrites one line, without its newline, as column and template data at mark, and checks the column.
func (p *asciiParser) parse(line []byte) (record, error) {
	h, rest, err := p.splitHead(line)
	if err != nil {
		return record{}, err
	}
	l := &p.list
	if l.columnHash == 0 {
		l.columnHash, _ = hashOfSize(len(h.column) / 2) // measureColumn has looked
	}
	shape := layoutOf(h.template)
	var t dataText
	if err := t.split(shape, rest); err != nil {
		return record{}, err
	}
	column, size := len(h.column)/2, t.dataSize(shape)
	l.raw = slices.Grow(l.raw[:p.mark], column+size)[:p.mark+column+size]
	if !decodeHex(l.raw[p.mark:p.mark+column], h.column) {
		return record{}, fmt.Errorf("template hash %.140q is not in lower case hexadecimal digits", h.column)
	}
	r := record{
		column: uint32(p.mark), data: uint32(p.mark + column), size: uint32(size), pcr: h.pcr, template: h.template,
		nameAt: uint16(t.nameAt(shape)), nameSize: uint16(len(t.name)),
	}
	if err := t.write(l.data(r), shape); err != nil {
		return record{}, err
	}
	r.flags = l.checkColumn(r)
	return r, nil
}

// dataText is the template data of a line: prefix ("sha256:") and name as they are, digest and tail in digits.
type dataText struct{ prefix, digest, name, tail []byte }

// split takes the data of a line apart and checks all but the digits.
func (t *dataText) split(shape layout, text []byte) error {
	if err := t.splitDigest(shape, text); err != nil {
		return err
	}
	if shape.tail != tailNone {
		// The kernel leaves no space in a name, so that the last one is the border.
		last := bytes.LastIndexByte(t.name, ' ')
		if last < 0 {
			return fmt.Errorf("template %s without its third field", shape.name)
		}
		t.name, t.tail = t.name[:last], t.name[last+1:]
		if len(t.tail)/2 > MaxField {
			return fmt.Errorf("%w: third field of %d bytes, more than %d", ErrLimit, len(t.tail)/2, MaxField)
		}
	}
	if len(t.name) > shape.maxName() {
		return fmt.Errorf("%w: name of %d bytes, more than %d", ErrLimit, len(t.name), shape.maxName())
	}
	if bytes.IndexByte(t.name, 0) >= 0 {
		return fmt.Errorf("name %.80q holds a NUL", t.name)
	}
	return nil
}

// splitDigest cuts off "sha256:digits ", or "digits " alone: in the template ima, and in the others for an algorithm without a name.
func (t *dataText) splitDigest(shape layout, text []byte) error {
	space := bytes.IndexByte(text, ' ')
	if space < 0 {
		return fmt.Errorf("no name after the digest %.140q", text)
	}
	t.digest, t.name = text[:space], text[space+1:]
	if shape.digest == digestPlain {
		if space != 2*legacyDigestSize {
			return fmt.Errorf("digest %.140q has not %d digits", t.digest, 2*legacyDigestSize)
		}
		return nil
	}
	colon := 6 // nearly every line
	if space != 7+2*sha256.Size || string(text[:7]) != "sha256:" {
		colon = bytes.LastIndexByte(t.digest, ':')
	}
	if colon == 0 {
		return fmt.Errorf("digest %.140q has no algorithm before its colon", t.digest)
	}
	t.prefix, t.digest = t.digest[:colon+1], t.digest[colon+1:]
	if colon < 0 {
		t.prefix = []byte{':'} // the kernel does not print it alone
	}
	if err := checkPrefix(shape.digest, t.prefix); err != nil {
		return err
	}
	if len(t.digest) > 2*attest.MaxDigestSize {
		return fmt.Errorf("digest of %d digits, more than %d", len(t.digest), 2*attest.MaxDigestSize)
	}
	return nil
}

// nameAt is where the name begins in what write makes.
func (t *dataText) nameAt(shape layout) int {
	if shape.digest == digestPlain {
		return legacyDigestSize + 4
	}
	return 4 + len(t.prefix) + 1 + len(t.digest)/2 + 4
}

// dataSize is the size of the template data that write makes.
func (t *dataText) dataSize(shape layout) int {
	size := t.nameAt(shape) + len(t.name)
	if shape.digest != digestPlain {
		size++
	}
	if shape.tail != tailNone {
		size += 4 + len(t.tail)/2
	}
	return size
}

// write makes the template data of the binary list.
func (t *dataText) write(to []byte, shape layout) error {
	named := shape.digest != digestPlain
	size := len(t.digest) / 2
	if named {
		binary.LittleEndian.PutUint32(to, uint32(len(t.prefix)+1+size))
		to = to[4+copy(to[4:], t.prefix):]
		to[0], to = 0, to[1:]
	}
	if !decodeHex(to[:size], t.digest) {
		return fmt.Errorf("digest %.140q is not in lower case hexadecimal digits", t.digest)
	}
	to = to[size:]
	if !named {
		binary.LittleEndian.PutUint32(to, uint32(len(t.name)))
		copy(to[4:], t.name)
		return nil
	}
	binary.LittleEndian.PutUint32(to, uint32(len(t.name)+1))
	to = to[4+copy(to[4:], t.name):]
	to[0], to = 0, to[1:]
	if shape.tail == tailNone {
		return nil
	}
	binary.LittleEndian.PutUint32(to, uint32(len(t.tail)/2))
	if !decodeHex(to[4:], t.tail) {
		return fmt.Errorf("third field %.80q is not in lower case hexadecimal digits", t.tail)
	}
	return nil
}

// AppendASCII appends the list as ascii_runtime_measurements shows it: for a list that ParseASCII read, its text. The data of a
// template that is not known, which only a binary list can hold, are written as digits; ParseASCII does not read that.
func (l List) AppendASCII(to []byte) []byte { return l.appendASCII(to, 0, len(l.records)) }

// ASCII returns the list as ascii_runtime_measurements shows it; see AppendASCII.
func (l List) ASCII() []byte { return l.AppendASCII(nil) }

func (l *List) appendASCII(to []byte, from, end int) []byte {
	for _, r := range l.records[from:end] {
		if r.pcr < 10 {
			to = append(to, ' ')
		}
		to = strconv.AppendUint(to, uint64(r.pcr), 10)
		to = append(to, ' ')
		to = hex.AppendEncode(to, l.column(r))
		to = append(to, ' ')
		to = append(to, l.templateName(r.template)...)
		to = append(to, ' ')
		to = appendDataText(to, layoutOf(r.template), l.data(r))
		to = append(to, '\n')
	}
	return to
}

func appendDataText(to []byte, shape layout, data []byte) []byte {
	f, err := splitFields(shape, data)
	if shape.digest == digestNone || err != nil {
		return hex.AppendEncode(to, data)
	}
	if len(f.prefix) > 1 {
		to = append(to, f.prefix...)
	}
	to = hex.AppendEncode(to, f.digest)
	to = append(to, ' ')
	to = append(to, f.name...)
	if shape.tail != tailNone {
		to = append(to, ' ')
		to = hex.AppendEncode(to, f.tail)
	}
	return to
}
