package quote

import (
	"encoding/binary"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/octets"
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

// reader reads big-endian TPM structures.
type reader struct{ octets.Reader }

// sized takes a TPM2B: a 16-bit length and so many bytes.
func (r *reader) sized() []byte { return r.Take(int(r.Uint16())) }

// end refuses trailing bytes: bytes that decide nothing could only mislead another reader.
func (r *reader) end() error {
	if r.Left() > 0 {
		r.Fail(fmt.Errorf("%d bytes after the end", r.Left()))
	}
	return r.Err()
}

func parseAttestation(data []byte) (attestation, error) {
	r := &reader{octets.NewReader(data, binary.BigEndian)}
	if magic := r.Uint32(); magic != generatedValue {
		r.Fail(fmt.Errorf("magic is %#08x, not %#08x", magic, uint32(generatedValue)))
	}
	if kind := r.Uint16(); kind != attestQuote {
		r.Fail(fmt.Errorf("type is %#04x, not a quote (%#04x)", kind, attestQuote))
	}
	a := attestation{signer: r.name()}
	a.extraData = r.sized()
	a.clock = r.clock()
	a.firmware = r.Uint64()
	a.selections = r.selections()
	a.pcrDigest = r.sized()
	return a, r.end()
}

// name takes the qualified name of the signer: a known hash algorithm and a digest of its size. No check of Verify rests on it (the
// signature names the key).
func (r *reader) name() []byte {
	name := r.sized()
	if r.Err() != nil {
		return nil
	}
	if len(name) < 2 {
		r.Fail(fmt.Errorf("qualified signer has %d bytes", len(name)))
		return nil
	}
	alg := attest.Hash(binary.BigEndian.Uint16(name))
	if !alg.Known() || len(name) != 2+alg.Size() {
		r.Fail(fmt.Errorf("qualified signer: %d bytes do not make a %s name", len(name), alg))
	}
	return name
}

func (r *reader) clock() Clock {
	c := Clock{Clock: r.Uint64(), ResetCount: r.Uint32(), RestartCount: r.Uint32()}
	switch safe := r.Uint8(); safe {
	case 0:
	case 1:
		c.Safe = true
	default:
		r.Fail(fmt.Errorf("safe is %d, neither NO (0) nor YES (1)", safe))
	}
	return c
}

func (r *reader) selections() []pcr.Selection {
	count := r.Uint32()
	if count > maxSelections {
		r.Fail(fmt.Errorf("%d PCR selections, more than %d", count, maxSelections))
	}
	if r.Err() != nil {
		return nil
	}
	selections := make([]pcr.Selection, 0, count)
	for range count {
		bank := attest.Hash(r.Uint16())
		if width := r.Uint8(); width != selectBytes {
			r.Fail(fmt.Errorf("PCR bitmap has %d bytes, not %d", width, selectBytes))
		}
		bitmap := r.Take(selectBytes)
		if r.Err() != nil {
			return nil
		}
		mask := uint32(bitmap[0]) | uint32(bitmap[1])<<8 | uint32(bitmap[2])<<16
		selections = append(selections, pcr.Selection{Bank: bank, Mask: mask})
	}
	return selections
}
