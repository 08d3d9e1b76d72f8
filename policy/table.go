package policy

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"github.com/assay-project/assay/attest"
)

// table maps paths to digests. It is made once and looked up for every entry of every list of every agent: one slot of 8 bytes and one
// record tell the answer, without an allocation.
//
// A record is: length of the path, path, length of the digests, digests; a digest is one byte for its algorithm and its bytes. Lengths are
// varints.
type table struct {
	seed    maphash.Seed
	slots   []slot
	records []byte
	paths   int
	digests int
}

type slot struct {
	tag uint32
	// place is 1 plus the offset of the record; 0 marks an empty slot. Records are smaller than their document: MaxDocumentBytes bounds them.
	place uint32
}

// listing is a path and the digests that a document lists for it, in the document's order.
type listing struct {
	path    string
	digests []attest.Digest
}

// newTable compiles listings, whose paths are all different.
func newTable(listings []listing) table {
	size := 4
	for 4*size < 5*len(listings) { // at most four fifths are taken: a smaller table misses the caches less
		size *= 2
	}
	t := table{seed: maphash.MakeSeed(), slots: make([]slot, size), paths: len(listings)}
	var packed []byte
	for _, l := range listings {
		packed = packDigests(packed[:0], l.digests)
		t.digests += len(l.digests)
		place := len(t.records)
		t.records = binary.AppendUvarint(t.records, uint64(len(l.path)))
		t.records = append(t.records, l.path...)
		t.records = binary.AppendUvarint(t.records, uint64(len(packed)))
		t.records = append(t.records, packed...)
		t.insert(l.path, uint32(place)+1)
	}
	t.records = bytes.Clone(t.records) // without the room for growth
	return t
}

func packDigests(to []byte, digests []attest.Digest) []byte {
	for _, d := range digests {
		to = append(to, byte(d.Hash()))
		to = d.AppendBytes(to)
	}
	return to
}

func (t *table) insert(path string, place uint32) {
	i, tag := t.home(maphash.String(t.seed, path))
	for t.slots[i].place != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = slot{tag: tag, place: place}
}

func (t *table) home(sum uint64) (index int, tag uint32) {
	return int(uint32(sum)) & (len(t.slots) - 1), uint32(sum >> 32)
}

// find returns the packed digests of a path; ok is false for a path that is not listed.
func (t *table) find(path string) (packed []byte, ok bool) {
	if len(t.slots) == 0 {
		return nil, false
	}
	return lookup(t, maphash.String(t.seed, path), path)
}

// findBytes is find for a path that is no string.
func (t *table) findBytes(path []byte) (packed []byte, ok bool) {
	if len(t.slots) == 0 {
		return nil, false
	}
	return lookup(t, maphash.Bytes(t.seed, path), path)
}

func lookup[P string | []byte](t *table, sum uint64, path P) (packed []byte, ok bool) {
	i, tag := t.home(sum)
	for ; t.slots[i].place != 0; i = (i + 1) & (len(t.slots) - 1) {
		if t.slots[i].tag != tag {
			continue
		}
		record := t.records[t.slots[i].place-1:]
		name, rest := cut(record)
		if string(name) == string(path) {
			packed, _ = cut(rest)
			return packed, true
		}
	}
	return nil, false
}

// cut takes one field with its length off a record.
func cut(record []byte) (field, rest []byte) {
	length, n := binary.Uvarint(record)
	end := n + int(length)
	return record[n:end], record[end:]
}

// holds reports whether packed digests hold d.
func holds(packed []byte, d *attest.Digest) bool {
	var buf [attest.MaxDigestSize]byte
	return holdsBytes(packed, d.Hash(), d.AppendBytes(buf[:0]))
}

// holdsBytes is holds for a digest that is no attest.Digest.
func holdsBytes(packed []byte, h attest.Hash, sum []byte) bool {
	for len(packed) > 0 {
		size := 1 + attest.Hash(packed[0]).Size()
		if attest.Hash(packed[0]) == h && bytes.Equal(packed[1:size], sum) {
			return true
		}
		packed = packed[size:]
	}
	return false
}

func unpackDigests(packed []byte) []attest.Digest {
	var all []attest.Digest
	for len(packed) > 0 {
		h := attest.Hash(packed[0])
		d, err := attest.NewDigest(h, packed[1:1+h.Size()])
		if err != nil {
			return all // cannot be: packDigests wrote it
		}
		all = append(all, d)
		packed = packed[1+h.Size():]
	}
	return all
}
