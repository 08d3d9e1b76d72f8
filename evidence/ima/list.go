package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/assay-project/assay/attest"
)

// Entry is one measurement. It refers to its list; slices that its methods return belong to the list and are not to be changed.
type Entry struct {
	// Position counts entries from 0: at the start of the list for a List, at boot for a Replayed.
	Position uint64
	PCR      int
	// Template is the template's name; of one that is not known, Data and Fields are all that there is.
	Template string
	// Path is the name as recorded: a file's path, a buffer's name, boot_aggregate. The kernel stores "_" for each space. Every
	// other byte may occur in it, control characters and newlines too.
	Path string
	// Digest is the measured digest. It is the zero Digest if the algorithm is not one of attest's or the size is not the
	// algorithm's; RawDigest tells.
	Digest attest.Digest
	// Violation says that the kernel could not vouch for the file: it was open for writing. It extended ones, so that no PCR
	// covers Path and Digest of this entry.
	Violation bool

	list   *List
	record record
}

// TemplateHash returns the column as recorded: zeros for a violation.
func (e Entry) TemplateHash() []byte {
	if e.list == nil {
		return nil
	}
	return e.list.column(e.record)
}

// Data returns the template data as the binary list holds them.
func (e Entry) Data() []byte {
	if e.list == nil {
		return nil
	}
	return e.list.data(e.record)
}

// RawDigest returns the measured digest's algorithm by its kernel name, empty where the kernel had none, and its bytes.
func (e Entry) RawDigest() (algorithm string, sum []byte) {
	shape, f := e.split()
	if shape.digest == digestPlain {
		return attest.SHA1.String(), f.digest // 20 bytes
	}
	_, name := f.algorithm()
	return string(name), f.digest
}

// DigestType returns "ima" or "verity" in the templates of version 2, and "" in the others.
func (e Entry) DigestType() string {
	_, f := e.split()
	kind, _ := f.algorithm()
	return string(kind)
}

// Signature returns the file's security.ima signature, if the template has it and the file had one.
func (e Entry) Signature() []byte {
	if shape, f := e.split(); shape.tail == tailSignature {
		return f.tail
	}
	return nil
}

// Buffer returns the measured buffer of an entry of ima-buf; ok is false for every other template.
func (e Entry) Buffer() (buffer []byte, ok bool) {
	shape, f := e.split()
	if shape.tail != tailBuffer {
		return nil, false
	}
	return f.tail, true
}

// Fields cuts the template data into fields by their lengths, whatever the template is. It returns nil if they do not fit.
func (e Entry) Fields() [][]byte {
	if shape, f := e.split(); shape.digest == digestPlain {
		return [][]byte{f.digest, f.name}
	}
	var all [][]byte
	for rest := e.Data(); len(rest) > 0; {
		field, after, err := takeField(rest)
		if err != nil {
			return nil
		}
		all, rest = append(all, field), after
	}
	return all
}

// split takes the template data apart; of a template that is not known, nothing.
func (e Entry) split() (layout, fields) {
	if e.list == nil || e.record.template >= knownTemplates {
		return layout{}, fields{}
	}
	shape := layoutOf(e.record.template)
	f, err := splitFields(shape, e.Data())
	if err != nil {
		return layout{}, fields{} // cannot be: the parsers have split it before
	}
	return shape, f
}

// record is an entry in compact form: where its parts lie in List.raw.
type record struct {
	column, data, size uint32
	// nameAt counts from data; of a template that is not known, there is no name.
	nameAt, nameSize uint16
	pcr, template    uint8
	flags            uint8
}

const (
	flagViolation uint8 = 1 << iota
	// flagFalse: the column is not the hash of the data.
	flagFalse
	// flagPaddedColumn: the column holds the zero-padded SHA-1 of the data (ima_crypto.c, without the bank's hash).
	flagPaddedColumn
	// flagNewline: the name holds newlines, and the entry takes several lines in ASCII.
	flagNewline
)

// List is a parsed measurement list: a claim, until Replay has compared it with a quote. The zero value is an empty list.
type List struct {
	// raw holds columns and template data: the list itself in binary, a rewritten one in ASCII.
	raw        []byte
	records    []record
	columnHash attest.Hash
	// named holds the names of templates that are not known, from index knownTemplates on.
	named []string
	// falseHashes counts the records with flagFalse.
	falseHashes int
}

// ErrLimit says that a list is larger than what is read.
var ErrLimit = errors.New("limit exceeded")

// Len returns the number of entries.
func (l List) Len() int { return len(l.records) }

// ColumnHash returns the algorithm of the template hash column, or 0 for an empty list.
func (l List) ColumnHash() attest.Hash { return l.columnHash }

// All returns the entries one by one, without keeping them, and their positions in the list.
func (l List) All() iter.Seq2[uint64, Entry] { return l.walkEntries(0, 0, len(l.records), anyPCR) }

// Entries returns all entries. All needs less memory.
func (l List) Entries() []Entry {
	return collect(l.All())
}

func (l *List) column(r record) []byte {
	end := r.column + uint32(l.columnHash.Size())
	return l.raw[r.column:end:end]
}

func (l *List) data(r record) []byte {
	end := r.data + r.size
	return l.raw[r.data:end:end]
}

func (l *List) templateName(template uint8) string {
	if template < knownTemplates {
		return layoutOf(template).name
	}
	return l.named[template-knownTemplates]
}

// anyPCR selects the entries of all PCRs.
func anyPCR(uint8) bool { return true }

// walkEntries yields the records from index from to end whose PCR is wanted; first is the position of the list's first entry.
func (l *List) walkEntries(first uint64, from, end int, wanted func(pcr uint8) bool) iter.Seq2[uint64, Entry] {
	return func(yield func(uint64, Entry) bool) {
		names := names{list: l}
		for i := from; i < end; i++ {
			if !wanted(l.records[i].pcr) {
				continue
			}
			position := first + uint64(i)
			if !yield(position, l.decode(position, l.records[i], names.of(i))) {
				return
			}
		}
	}
}

func collect(entries iter.Seq2[uint64, Entry]) []Entry {
	var all []Entry
	for _, e := range entries {
		all = append(all, e)
	}
	return all
}

// names makes the strings of names in blocks: one allocation for many, and none that is kept keeps more than a block alive.
type names struct {
	list *List
	// block holds the names of the records from index next on, from offset at on.
	block    string
	next, at int
	end      int
}

// namesBlock is the size of a block; a longer name gets one for itself.
const namesBlock = 4096

// of returns the name of record i. Records are asked for in ascending order.
func (n *names) of(i int) string {
	if i >= n.end {
		n.fill(i)
	}
	for ; n.next < i; n.next++ {
		n.at += int(n.list.records[n.next].nameSize)
	}
	size := int(n.list.records[i].nameSize)
	n.next, n.at = i+1, n.at+size
	return n.block[n.at-size : n.at]
}

// fill makes the block that begins with record i.
func (n *names) fill(i int) {
	size := 0
	for n.end = i; n.end < len(n.list.records); n.end++ {
		more := int(n.list.records[n.end].nameSize)
		if size+more > namesBlock && n.end > i {
			break
		}
		size += more
	}
	var block strings.Builder
	block.Grow(size)
	for _, r := range n.list.records[i:n.end] {
		name := r.data + uint32(r.nameAt)
		block.Write(n.list.raw[name : name+uint32(r.nameSize)])
	}
	n.block, n.next, n.at = block.String(), i, 0
}

// entry decodes record i; first is the position of the list's first entry.
func (l *List) entry(i int, first uint64) Entry {
	r := l.records[i]
	name := l.data(r)[r.nameAt : r.nameAt+r.nameSize]
	return l.decode(first+uint64(i), r, string(name))
}

// decode makes the entry of a record, whose name is path.
func (l *List) decode(position uint64, r record, path string) Entry {
	e := Entry{
		Position: position, PCR: int(r.pcr), Template: l.templateName(r.template), Path: path,
		Violation: r.flags&flagViolation != 0, list: l, record: r,
	}
	if h, sum := l.digest(r); h != 0 && h.Size() == len(sum) {
		e.Digest, _ = attest.NewDigest(h, sum) // fails for another size only
	}
	return e
}

// cutSHA256 returns the digest of a digest field, with its length, that names SHA-256 and no type.
func cutSHA256(field []byte) (sum []byte, found bool) {
	const head = "\x28\x00\x00\x00sha256:\x00" // 40 bytes: prefix, NUL and digest
	if len(field) == len(head)+sha256.Size && string(field[:len(head)]) == head {
		return field[len(head):], true
	}
	return nil, false
}

// plainFile returns name and digest of a record of ima-ng or ima-sig with a SHA-256 digest and without a violation.
func (l *List) plainFile(r record) (name, sum []byte, ok bool) {
	if r.flags&flagViolation != 0 || r.template != templateNG && r.template != templateSig {
		return nil, nil, false
	}
	data := l.data(r)
	sum, ok = cutSHA256(data[:r.nameAt-4])
	return data[r.nameAt : r.nameAt+r.nameSize], sum, ok
}

// digest returns the measured digest of a record, and its algorithm or 0.
func (l *List) digest(r record) (attest.Hash, []byte) {
	if r.template >= knownTemplates {
		return 0, nil
	}
	data := l.data(r)
	if sum, found := cutSHA256(data[:r.nameAt-4]); found {
		return attest.SHA256, sum // nearly every entry, without taking all fields apart
	}
	shape := layoutOf(r.template)
	f, err := splitFields(shape, data)
	if err != nil {
		return 0, nil // cannot be: the parsers have split it before
	}
	return f.hash(shape), f.digest
}

// sum writes the template hash of a record with algorithm h to dst. A column that holds it spares the work: the parser compared it.
func (l *List) sum(dst []byte, h attest.Hash, r record) {
	if l.columnHash == h && r.flags&(flagViolation|flagFalse|flagPaddedColumn) == 0 {
		copy(dst, l.column(r))
		return
	}
	l.hash(dst, h, r)
}

func (l *List) hash(dst []byte, h attest.Hash, r record) {
	data := l.data(r)
	if r.template != templateIMA {
		sumInto(dst, h, data)
		return
	}
	// digest || name padded with zeros to 256 bytes; the list's length of the name is not hashed
	var padded [legacyHashedSize]byte
	copy(padded[:], data[:legacyDigestSize])
	copy(padded[legacyDigestSize:], data[legacyDigestSize+4:])
	sumInto(dst, h, padded[:])
}

// checkColumn compares a record's column with the hash of its data, and returns the flag of what it finds.
func (l *List) checkColumn(r record) uint8 {
	column := l.column(r)
	if len(column) == sha1.Size && r.template != templateIMA && [sha1.Size]byte(column) == sha1.Sum(l.data(r)) {
		return 0 // nearly every entry of nearly every list
	}
	var sum [attest.MaxDigestSize]byte
	l.hash(sum[:], l.columnHash, r)
	switch {
	case isZero(column):
		return flagViolation
	case bytes.Equal(column, sum[:len(column)]):
		return 0
	case len(column) == sha1.Size:
		return flagFalse
	}
	clear(sum[:])
	l.hash(sum[:], attest.SHA1, r)
	if bytes.Equal(column, sum[:len(column)]) {
		return flagPaddedColumn
	}
	return flagFalse
}

// add takes a checked record into the list.
func (l *List) add(r record) error {
	if len(l.records) >= MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrLimit, MaxEntries)
	}
	if r.flags&flagFalse != 0 {
		l.falseHashes++
	}
	l.records = append(l.records, r)
	return nil
}

// newlines counts the newlines in the names of the records from start to end.
func (l *List) newlines(start, end int) uint64 {
	var count uint64
	for i := start; i < end; i++ {
		if l.records[i].flags&flagNewline != 0 {
			count += uint64(strings.Count(l.entry(i, 0).Path, "\n"))
		}
	}
	return count
}
