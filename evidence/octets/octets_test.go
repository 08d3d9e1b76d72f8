package octets_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/evidence/octets"
)

var data = []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}

func TestFields(t *testing.T) {
	for _, test := range []struct {
		order binary.ByteOrder
		want  []uint64
	}{
		{binary.BigEndian, []uint64{0x01, 0x0203, 0x04050607, 0x08090a0b0c0d0e0f}},
		{binary.LittleEndian, []uint64{0x01, 0x0302, 0x07060504, 0x0f0e0d0c0b0a0908}},
	} {
		r := octets.NewReader(data, test.order)
		got := []uint64{uint64(r.Uint8()), uint64(r.Uint16()), uint64(r.Uint32()), r.Uint64()}
		if diff := cmp.Diff(test.want, got); diff != "" || r.Err() != nil || r.Offset() != 15 || r.Left() != 2 {
			t.Errorf("%v: offset %d, %v (-want +got):\n%s", test.order, r.Offset(), r.Err(), diff)
		}
		if last := r.Take(2); string(last) != "\x10\x11" || cap(last) != 2 || r.Left() != 0 {
			t.Errorf("%v: the last bytes are %x, with room for %d", test.order, last, cap(last))
		}
		if empty := r.Take(0); empty == nil || r.Err() != nil {
			t.Errorf("%v: no bytes at the end: %v", test.order, r.Err())
		}
	}
}

func TestShort(t *testing.T) {
	for name, take := range map[string]func(*octets.Reader){
		"17 bytes wanted":         func(r *octets.Reader) { r.Take(17) },
		"-1 bytes wanted":         func(r *octets.Reader) { r.Take(-1) },
		"1 bytes wanted, 0 left":  func(r *octets.Reader) { r.Take(16); r.Uint8() },
		"2 bytes wanted, 1 left":  func(r *octets.Reader) { r.Take(15); r.Uint16() },
		"offset 14: 4 bytes":      func(r *octets.Reader) { r.Take(14); r.Uint32() },
		"8 bytes wanted, 7 left:": func(r *octets.Reader) { r.Take(9); r.Uint64() },
	} {
		r := octets.NewReader(data[1:], binary.BigEndian)
		take(&r)
		if err := r.Err(); !errors.Is(err, octets.ErrShort) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		first := r.Err()
		r.Fail(errors.New("another"))
		if r.Take(0) != nil || r.Uint8() != 0 || r.Uint16() != 0 || r.Uint32() != 0 || r.Uint64() != 0 || r.Err() != first {
			t.Errorf("%s: goes on after the error, now %v", name, r.Err())
		}
	}
}

func TestFail(t *testing.T) {
	r := octets.NewReader(data, binary.BigEndian)
	r.Uint32()
	bad := errors.New("bad")
	r.Fail(bad)
	if err := r.Err(); !errors.Is(err, bad) || err.Error() != "offset 4: bad" {
		t.Errorf("%v", err)
	}
}
