package ima

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/assay-project/assay/attest"
)

// What a plain line holds, in text and as template data. A plain line is nearly every line of nearly every list: of a list with a SHA-1
// column, in ima-ng, or in ima-sig without a signature, with a SHA-256 digest, and with the true template hash.
const (
	plainNG  = " ima-ng sha256:"
	plainSig = " ima-sig sha256:"
	// plainHead is the length of the digest field, 40 bytes, and what stands in it before the digest.
	plainHead = "\x28\x00\x00\x00sha256:\x00"
	plainName = len(plainHead) + sha256.Size + 4
	// plainColumn and plainDigest count digits.
	plainColumn = 2 * sha1.Size
	plainDigest = 2 * sha256.Size
)

// plainLine is a plain line taken apart, with digits where the list has bytes.
type plainLine struct {
	pcr, template uint8
	column        *[plainColumn]byte
	digest        *[plainDigest]byte
	name          []byte
}

// plain takes the line at pos into the list if it is a plain one. It takes nothing that next would not take, and nothing in another way: a
// third of the time for a list went to questions whose answer was the same for every line.
func (p *asciiParser) plain() bool {
	if p.list.columnHash != attest.SHA1 || len(p.list.records) >= MaxEntries {
		return false
	}
	var line plainLine
	size := line.cut(p.text[p.pos:])
	if size == 0 || !p.writePlain(&line) {
		return false
	}
	p.pos, p.line, p.mark = p.pos+size, p.line+1, len(p.list.raw)
	return true
}

// cut takes apart the line that text begins with and returns its size, newline included, or 0 for one that is not plain.
func (l *plainLine) cut(text []byte) (size int) {
	index, rest, ok := cutPCR(text)
	if !ok || len(rest) <= plainColumn+len(plainSig)+plainDigest {
		return 0
	}
	l.pcr, l.column, rest = index, (*[plainColumn]byte)(rest), rest[plainColumn:]
	switch {
	case string(rest[:len(plainNG)]) == plainNG:
		l.template, rest = templateNG, rest[len(plainNG):]
	case string(rest[:len(plainSig)]) == plainSig:
		l.template, rest = templateSig, rest[len(plainSig):]
	default:
		return 0
	}
	l.digest, rest = (*[plainDigest]byte)(rest), rest[plainDigest:]
	end := bytes.IndexByte(rest, '\n')
	if end < 1 || rest[0] != ' ' {
		return 0
	}
	l.name = rest[1:end]
	if l.template == templateSig {
		// The last space of the line is the border of the third field, which is empty here.
		if l.name, ok = bytes.CutSuffix(l.name, []byte{' '}); !ok {
			return 0
		}
	}
	if len(l.name) > MaxName || bytes.IndexByte(l.name, 0) >= 0 {
		return 0
	}
	return len(text) - len(rest) + end + 1
}

// writePlain is parse, dataText.write and List.add for a plain line.
func (p *asciiParser) writePlain(line *plainLine) bool {
	l := &p.list
	size := plainName + len(line.name) + 1
	if line.template == templateSig {
		size += 4
	}
	end := p.mark + sha1.Size + size
	l.raw = slices.Grow(l.raw[:p.mark], sha1.Size+size)[:end]
	column, data := (*[sha1.Size]byte)(l.raw[p.mark:]), l.raw[p.mark+sha1.Size:end]
	*(*[len(plainHead)]byte)(data) = [len(plainHead)]byte([]byte(plainHead))
	wrong := decodeSHA1(column, line.column) | decodeSHA256((*[sha256.Size]byte)(data[len(plainHead):]), line.digest)
	binary.LittleEndian.PutUint32(data[plainName-4:], uint32(len(line.name)+1))
	clear(data[plainName+copy(data[plainName:], line.name):])
	if wrong != 0 || *column != sha1.Sum(data) {
		return false
	}
	l.records = append(l.records, record{
		column: uint32(p.mark), data: uint32(p.mark + sha1.Size), size: uint32(size), pcr: line.pcr, template: line.template,
		nameAt: uint16(plainName), nameSize: uint16(len(line.name)),
	})
	return true
}

// decodeSHA256 is decodeHex for a digest; wrong is not zero if there is another byte than a lower case digit.
func decodeSHA256(dst *[sha256.Size]byte, digits *[plainDigest]byte) (wrong uint64) {
	return decodeSixteen((*[8]byte)(dst[:]), (*[16]byte)(digits[:])) |
		decodeSixteen((*[8]byte)(dst[8:]), (*[16]byte)(digits[16:])) |
		decodeSixteen((*[8]byte)(dst[16:]), (*[16]byte)(digits[32:])) |
		decodeSixteen((*[8]byte)(dst[24:]), (*[16]byte)(digits[48:]))
}

// decodeSHA1 is decodeSHA256 for a column.
func decodeSHA1(dst *[sha1.Size]byte, digits *[plainColumn]byte) (wrong uint64) {
	last, wrong := decodeEight(binary.LittleEndian.Uint64(digits[32:]))
	binary.LittleEndian.PutUint32(dst[16:], uint32(last))
	return wrong | decodeSixteen((*[8]byte)(dst[:]), (*[16]byte)(digits[:])) |
		decodeSixteen((*[8]byte)(dst[8:]), (*[16]byte)(digits[16:]))
}

func decodeSixteen(dst *[8]byte, digits *[16]byte) (wrong uint64) {
	high, wrongHigh := decodeEight(binary.LittleEndian.Uint64(digits[:]))
	low, wrongLow := decodeEight(binary.LittleEndian.Uint64(digits[8:]))
	binary.LittleEndian.PutUint64(dst[:], high|low<<32)
	return wrongHigh | wrongLow
}
