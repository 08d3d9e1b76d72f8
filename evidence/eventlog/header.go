package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/octets"
)

// maxAlgorithms bounds the header's table, as the TPM's reference code does (HASH_COUNT).
const maxAlgorithms = 16

// header reads a TCG_EfiSpecIDEvent after its signature (Platform Firmware Profile, section 10.4.5.1).
func (p *parser) header(data []byte) error {
	r := octets.NewReader(data, binary.LittleEndian)
	r.Take(8) // platform class, version, errata, size of UINTN: they change nothing in the form
	count := r.Uint32()
	if r.Err() != nil {
		return fmt.Errorf("header: %w", r.Err())
	}
	if count == 0 || count > maxAlgorithms {
		return fmt.Errorf("header: %d algorithms, not 1 to %d", count, maxAlgorithms)
	}
	for range count {
		a := algorithm{id: attest.Hash(r.Uint16()), size: int(r.Uint16())}
		if r.Err() != nil {
			break
		}
		if a.id.Known() && a.size != a.id.Size() {
			return fmt.Errorf("header: %s with %d bytes, not %d", a.id, a.size, a.id.Size())
		}
		if slices.ContainsFunc(p.algorithms, func(b algorithm) bool { return b.id == a.id }) {
			return fmt.Errorf("header: %s twice", a.id)
		}
		p.algorithms = append(p.algorithms, a)
		if a.id.Known() {
			p.log.banks = append(p.log.banks, a.id)
		}
	}
	r.Take(int(r.Uint8())) // the vendor's own
	if r.Err() != nil {
		return fmt.Errorf("header: %w", r.Err())
	}
	if r.Left() > 0 {
		return fmt.Errorf("header: %d bytes after the vendor's information", r.Left())
	}
	return nil
}

// start finds out where PCR 0 started: at the locality of TPM2_Startup, which firmware states in a NoAction event before the first extend
// (Platform Firmware Profile, section 10.4.5.3), or at 4 after a hardware root of trust, whether or not firmware states it.
func (p *parser) start(event Event) error {
	if event.PCR != 0 {
		return nil
	}
	if event.Type != NoAction {
		if !p.measured && !p.localised && event.Type == HCRTM {
			p.log.locality = 4
		}
		p.measured = true
		return nil
	}
	rest, ok := bytes.CutPrefix(event.Data, []byte("StartupLocality\x00"))
	if !ok {
		return nil
	}
	if p.measured || p.localised {
		return errors.New("StartupLocality after PCR 0 was extended or located")
	}
	if len(rest) == 0 {
		return errors.New("StartupLocality without a locality")
	}
	if locality := rest[0]; locality != 0 && locality != 3 && locality != 4 {
		return fmt.Errorf("StartupLocality %d is none of 0, 3 and 4", locality)
	}
	if padding := rest[1:]; len(padding) > 0 {
		if len(bytes.Trim(padding, "\x00")) > 0 {
			return fmt.Errorf("StartupLocality is followed by %d bytes that are not zero", len(padding))
		}
		p.log.quirks = append(p.log.quirks, PaddedStartupLocality)
	}
	p.log.locality, p.localised = rest[0], true
	return nil
}
