// Package octets takes fixed-size fields off bytes that a TPM or firmware wrote: the step that parsers of their structures share.
//
// It trusts no length: nothing is read beyond the bytes, and nothing is allocated. What the fields mean, and whether bytes may be left over,
// is left to the parsers.
package octets

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort says that a field does not fit in the bytes that are left.
var ErrShort = errors.New("structure ends too early")

// Reader takes fields off a byte string, one after the other. After the first error every field is zero and the error stays, so that a
// parser may look at Err once.
type Reader struct {
	data  []byte
	order binary.ByteOrder
	at    int
	err   error
}

// NewReader returns a reader of data, whose integers are in the given order. Fields that it takes share data's memory.
func NewReader(data []byte, order binary.ByteOrder) Reader { return Reader{data: data, order: order} }

// Offset returns how many bytes were taken.
func (r *Reader) Offset() int { return r.at }

// Left returns how many bytes are left.
func (r *Reader) Left() int { return len(r.data) - r.at }

// Err returns the first error, which names the offset where it was found.
func (r *Reader) Err() error { return r.err }

// Fail keeps err if there was none before.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("offset %d: %w", r.at, err)
	}
}

// Take returns the next n bytes, or nil after an error: ErrShort if fewer are left.
func (r *Reader) Take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > r.Left() { // below 0: a 32-bit length where int has 32 bits
		r.Fail(fmt.Errorf("%d bytes wanted, %d left: %w", n, r.Left(), ErrShort))
		return nil
	}
	field := r.data[r.at : r.at+n : r.at+n]
	r.at += n
	return field
}

// Uint8 takes one byte.
func (r *Reader) Uint8() uint8 {
	if field := r.Take(1); field != nil {
		return field[0]
	}
	return 0
}

// Uint16 takes two bytes.
func (r *Reader) Uint16() uint16 {
	if field := r.Take(2); field != nil {
		return r.order.Uint16(field)
	}
	return 0
}

// Uint32 takes four bytes.
func (r *Reader) Uint32() uint32 {
	if field := r.Take(4); field != nil {
		return r.order.Uint32(field)
	}
	return 0
}

// Uint64 takes eight bytes.
func (r *Reader) Uint64() uint64 {
	if field := r.Take(8); field != nil {
		return r.order.Uint64(field)
	}
	return 0
}
