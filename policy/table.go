package policy

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"

	"github.com/assay-project/assay/attest"
)

// table maps paths to digests. It is made once and looked up for every entry of every list of every agent: one slot of 4 bytes and one
// record tell the answer, without an allocation.
//
// A record is: length of the path, path, length of the digests, digests; a digest is one byte for its algorithm and its bytes. Lengths are
// varints. Records begin at multiples of recordUnit.
type table struct {
	seed    maphash.Seed
	slots   []slot
	records []byte
	paths   int
	digests int
}

// slot is empty, 0, or holds a tag, the top bits of the path's hash, above the number of a record: 1 plus its place in recordUnits.
// Lookups go all over the slots and wait for memory: half the size halves the wait.
type slot uint32

const (
	slotBits   = 24
	recordUnit = 8
	// maxRecords is where the numbers of records end, in bytes. It is twice MaxDocumentBytes: only anchors, or millions of paths
	// without digests, exceed it.
	maxRecords = recordUnit<<slotBits - recordUnit
)

func (s slot) record() int { return int(s&(1<<slotBits-1)-1) * recordUnit }

// listing is a path and the digests that a document lists for it, in the document's order.
type listing struct {
	path    string
	digests []attest.Digest
}

// maxSize returns what the records of listings take at the most, in bytes.
func maxSize(listings []listing) int {
	size := 0
	for _, l := range listings {
		size += recordUnit + 2*binary.MaxVarintLen32 + len(l.path)
		for _, d := range l.digests {
			size += 1 + d.Hash().Size()
		}
	}
	return size
}

// newTable compiles listings, whose paths are all different and whose maxSize is at most maxRecords.
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
		for len(t.records)%recordUnit != 0 {
			t.records = append(t.records, 0)
		}
		place := len(t.records)
		t.records = binary.AppendUvarint(t.records, uint64(len(l.path)))
		t.records = append(t.records, l.path...)
		t.records = binary.AppendUvarint(t.records, uint64(len(packed)))
		t.records = append(t.records, packed...)
		t.insert(l.path, slot(place/recordUnit+1))
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

func (t *table) insert(path string, record slot) {
	i, tag := t.home(maphash.String(t.seed, path))
	for t.slots[i] != 0 {
		i = (i + 1) & (len(t.slots) - 1)
	}
	t.slots[i] = tag | record
}

func (t *table) home(sum uint64) (index int, tag slot) {
	return int(uint32(sum)) & (len(t.slots) - 1), slot(sum>>32) &^ (1<<slotBits - 1)
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
	for ; t.slots[i] != 0; i = (i + 1) & (len(t.slots) - 1) {
		s := t.slots[i]
		if s&^(1<<slotBits-1) != tag {
			continue
		}
		name, rest := cut(t.records[s.record():])
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
