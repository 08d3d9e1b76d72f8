package ima

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"

	"github.com/assay-project/assay/attest"
)

// sumInto writes the digest of data to the front of dst, which may overlap data. It is attest.Hash.Sum without its allocations:
// a list needs three sums per entry.
func sumInto(dst []byte, h attest.Hash, data []byte) {
	switch h {
	case attest.SHA1:
		*(*[sha1.Size]byte)(dst) = sha1.Sum(data)
	case attest.SHA256:
		*(*[sha256.Size]byte)(dst) = sha256.Sum256(data)
	case attest.SHA384:
		*(*[sha512.Size384]byte)(dst) = sha512.Sum384(data)
	case attest.SHA512:
		*(*[sha512.Size]byte)(dst) = sha512.Sum512(data)
	}
}

// hashOfSize finds the algorithm of a template hash column by its size.
func hashOfSize(size int) (attest.Hash, bool) {
	for _, h := range attest.Hashes() {
		if h.Size() == size {
			return h, true
		}
	}
	return 0, false
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// decodeHex decodes lower case hexadecimal digits into dst, which has half their length. The kernel prints no others; upper case is
// refused, so that one list has one text.
func decodeHex(dst, digits []byte) bool {
	if len(digits) != 2*len(dst) {
		return false
	}
	var wrong uint64
	for len(dst) >= 8 && len(digits) >= 16 {
		high, wrongHigh := decodeEight(binary.LittleEndian.Uint64(digits))
		low, wrongLow := decodeEight(binary.LittleEndian.Uint64(digits[8:]))
		wrong |= wrongHigh | wrongLow
		binary.LittleEndian.PutUint64(dst, high|low<<32)
		dst, digits = dst[8:], digits[16:]
	}
	if len(dst) >= 4 && len(digits) >= 8 {
		four, wrongFour := decodeEight(binary.LittleEndian.Uint64(digits))
		wrong |= wrongFour
		binary.LittleEndian.PutUint32(dst, uint32(four))
		dst, digits = dst[4:], digits[8:]
	}
	return wrong == 0 && (len(dst) == 0 || decodeFew(dst, digits))
}

// decodeFew is decodeHex for what is left over.
func decodeFew(dst, digits []byte) bool {
	for _, c := range digits {
		if c >= 'A' && c <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(dst, digits)
	return err == nil
}

// decodeEight decodes eight digits at once, one in each byte of x, to four bytes. Half of a list is digits: this takes two thirds of
// the time of hex.Decode.
func decodeEight(x uint64) (four, wrong uint64) {
	const each = 0x0101010101010101
	letters := x >> 6 & each
	// Digits stay 0x30 to 0x39, letters become 0x3a to 0x3f. Nothing is borrowed: a byte with bit 6 set is at least 0x40.
	joined := x - letters*('a'-'9'-1)
	nibbles := joined ^ '0'*each
	wrong = nibbles&(0xf0*each) | (joined+6*each^x)&(0x40*each)
	pairs := (nibbles<<4 | nibbles>>8) & 0x00ff00ff00ff00ff
	pairs = (pairs | pairs>>8) & 0x0000ffff0000ffff
	return uint64(uint32(pairs | pairs>>16)), wrong
}
