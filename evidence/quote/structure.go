package quote

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
)

// Constants of TPM 2.0 Part 2, sections 6.2 and 6.9.
const (
	generatedValue = 0xff544347 // TPM_GENERATED_VALUE: a restricted key signs no outside data that starts so
	attestQuote    = 0x8018     // TPM_ST_ATTEST_QUOTE
)

// maxSelections bounds the selections of a quote: one for each bank that a TPM may have (HASH_COUNT of the reference code is 16).
const maxSelections = 16

// selectBytes is the width of a PCR bitmap: 24 PCRs (PC Client Platform TPM Profile, PLATFORM_PCR).
const selectBytes = pcr.Count / 8

// attestation is a TPMS_ATTEST that holds a TPMS_QUOTE_INFO (TPM 2.0 Part 2, 10.12.8 and 10.12.1).
type attestation struct {
	signer     []byte // qualified name
	extraData  []byte
	clock      Clock
	firmware   uint64
	selections []pcr.Selection // banks may be unknown here, masks are below 1<<24
	pcrDigest  []byte
}

var errShort = errors.New("structure ends too early")

// reader takes big-endian fields off a byte string. After the first error every field is zero and the error stays.
type reader struct {
	data []byte
	at   int
	err  error
}

func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.data)-r.at {
		r.fail(fmt.Errorf("%d bytes wanted, %d left: %w", n, len(r.data)-r.at, errShort))
		return nil
	}
	field := r.data[r.at : r.at+n]
	r.at += n
	return field
}

// fail keeps the first error, with the offset where it was found.
func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("offset %d: %w", r.at, err)
	}
}

func (r *reader) uint8() uint8 {
	if field := r.take(1); field != nil {
		return field[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if field := r.take(2); field != nil {
		return binary.BigEndian.Uint16(field)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if field := r.take(4); field != nil {
		return binary.BigEndian.Uint32(field)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if field := r.take(8); field != nil {
		return binary.BigEndian.Uint64(field)
	}
	return 0
}

// sized takes a TPM2B: a 16-bit length and so many bytes.
func (r *reader) sized() []byte { return r.take(int(r.uint16())) }

// end refuses trailing bytes: bytes that decide nothing could only mislead another reader.
func (r *reader) end() error {
	if r.err == nil && r.at < len(r.data) {
		r.fail(fmt.Errorf("%d bytes after the end", len(r.data)-r.at))
	}
	return r.err
}

func parseAttestation(data []byte) (attestation, error) {
	r := &reader{data: data}
	if magic := r.uint32(); magic != generatedValue {
		r.fail(fmt.Errorf("magic is %#08x, not %#08x", magic, uint32(generatedValue)))
	}
	if kind := r.uint16(); kind != attestQuote {
		r.fail(fmt.Errorf("type is %#04x, not a quote (%#04x)", kind, attestQuote))
	}
	a := attestation{signer: r.name()}
	a.extraData = r.sized()
	a.clock = r.clock()
	a.firmware = r.uint64()
	a.selections = r.selections()
	a.pcrDigest = r.sized()
	return a, r.end()
}

// name takes the qualified name of the signer: a known hash algorithm and a digest of its size. No check of Verify rests on it (the
// signature names the key).
func (r *reader) name() []byte {
	name := r.sized()
	if r.err != nil {
		return nil
	}
	if len(name) < 2 {
		r.fail(fmt.Errorf("qualified signer has %d bytes", len(name)))
		return nil
	}
	alg := attest.Hash(binary.BigEndian.Uint16(name))
	if !alg.Known() || len(name) != 2+alg.Size() {
		r.fail(fmt.Errorf("qualified signer: %d bytes do not make a %s name", len(name), alg))
	}
	return name
}

func (r *reader) clock() Clock {
	c := Clock{Clock: r.uint64(), ResetCount: r.uint32(), RestartCount: r.uint32()}
	switch safe := r.uint8(); safe {
	case 0:
	case 1:
		c.Safe = true
	default:
		r.fail(fmt.Errorf("safe is %d, neither NO (0) nor YES (1)", safe))
	}
	return c
}

func (r *reader) selections() []pcr.Selection {
	count := r.uint32()
	if count > maxSelections {
		r.fail(fmt.Errorf("%d PCR selections, more than %d", count, maxSelections))
	}
	if r.err != nil {
		return nil
	}
	selections := make([]pcr.Selection, 0, count)
	for range count {
		bank := attest.Hash(r.uint16())
		if width := r.uint8(); width != selectBytes {
			r.fail(fmt.Errorf("PCR bitmap has %d bytes, not %d", width, selectBytes))
		}
		bitmap := r.take(selectBytes)
		if r.err != nil {
			return nil
		}
		mask := uint32(bitmap[0]) | uint32(bitmap[1])<<8 | uint32(bitmap[2])<<16
		selections = append(selections, pcr.Selection{Bank: bank, Mask: mask})
	}
	return selections
}
