package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/octets"
	"github.com/assay-project/assay/evidence/pcr"
)

// MaxBytes bounds a log. Firmware reserves 64 KiB to some MiB for it.
const MaxBytes = 16 << 20

// EventType is what an event says that it is (TCG PC Client Platform Firmware Profile, section 10.4.1): a claim.
type EventType uint32

// The event types that replay knows.
const (
	NoAction EventType = 0x00000003 // information, extends nothing
	HCRTM    EventType = 0x80000008 // a hardware root of trust measured the firmware: PCR 0 started at locality 4
)

// Event is one entry of the log.
type Event struct {
	// Number counts from 0, the header of a crypto-agile log.
	Number int
	// PCR is below pcr.Count in events that extend; NoAction events may say anything.
	PCR  int
	Type EventType
	// Digests are those of the algorithms that Assay knows, in the log's order, at most one of each.
	Digests []attest.Digest
	// Data shares the log's memory; it is not to be changed.
	Data []byte
}

// Digest returns what the event extended bank's PCR with.
func (e Event) Digest(bank attest.Hash) (attest.Digest, bool) {
	for _, d := range e.Digests {
		if d.Hash() == bank {
			return d, true
		}
	}
	return attest.Digest{}, false
}

// Quirk names a deviation from the specification that was met in the field, is harmless, and is accepted.
type Quirk string

// PaddedStartupLocality: the StartupLocality event is longer than its structure, filled with zeros. coreboot kept TPM 2.0
// logs in entries of fixed size, until its change 93748, and passed the whole field on (Dasharo issue 1476, StarLabs firmware issue 437).
// PCR 0 decides whether the locality is right, so the filling can hide nothing.
const PaddedStartupLocality Quirk = "PaddedStartupLocality"

// Log is a parsed event log: a claim.
type Log struct {
	banks    []attest.Hash
	events   []Event
	locality byte // where PCR 0 started
	quirks   []Quirk
}

// Banks returns the known algorithms that the log declares.
func (l Log) Banks() []attest.Hash { return slices.Clone(l.banks) }

// Events returns all events, the header among them.
func (l Log) Events() []Event { return slices.Clone(l.events) }

// Locality returns the locality at which the log says that the TPM was started, the start value of PCR 0.
func (l Log) Locality() int { return int(l.locality) }

// Quirks returns the deviations that were accepted.
func (l Log) Quirks() []Quirk { return slices.Clone(l.quirks) }

// Parse reads a log to its last byte. The caller reports an error, which names the event and its offset, as attest.EventLogMalformed.
func Parse(data []byte) (Log, error) {
	if len(data) == 0 {
		return Log{}, fmt.Errorf("parse event log: it is empty")
	}
	if len(data) > MaxBytes {
		return Log{}, fmt.Errorf("parse event log: %d bytes, more than %d", len(data), MaxBytes)
	}
	p := parser{Reader: octets.NewReader(bytes.Clone(data), binary.LittleEndian)}
	for p.Left() > 0 {
		number, offset := len(p.log.events), p.Offset()
		if err := p.next(number); err != nil {
			return Log{}, fmt.Errorf("parse event log: event %d at offset %d: %w", number, offset, err)
		}
	}
	return p.log, nil
}

// parser holds what later events depend on.
type parser struct {
	octets.Reader
	log        Log
	algorithms []algorithm // nil for the SHA-1 form
	measured   bool        // an event extended PCR 0
	localised  bool        // a StartupLocality event was there
}

// algorithm is a row of the header's table. Its size is believed for algorithms that are not known, whose digests are passed over.
type algorithm struct {
	id   attest.Hash
	size int
}

// next reads one event. The first is in the SHA-1 form always, and tells the form of the rest.
func (p *parser) next(number int) error {
	index := p.Uint32()
	event := Event{Number: number, PCR: int(index), Type: EventType(p.Uint32())}
	if p.algorithms == nil {
		event.Digests = p.sha1Digest()
	} else {
		event.Digests = p.digests()
	}
	event.Data = p.Take(int(p.Uint32()))
	if p.Err() != nil {
		return p.Err()
	}
	if event.Type != NoAction && index >= pcr.Count {
		return fmt.Errorf("PCR %d is beyond %d", index, pcr.Count-1)
	}
	p.log.events = append(p.log.events, event)
	if number == 0 {
		if header, ok := bytes.CutPrefix(event.Data, []byte("Spec ID Event03\x00")); ok && event.Type == NoAction {
			return p.header(header)
		}
		p.log.banks = []attest.Hash{attest.SHA1}
	}
	return p.start(event)
}

func (p *parser) sha1Digest() []attest.Digest {
	digest, err := attest.NewDigest(attest.SHA1, p.Take(attest.SHA1.Size()))
	if err != nil {
		return nil // a short read, which next reports
	}
	return []attest.Digest{digest}
}

// digests reads a TPML_DIGEST_VALUES: at least one digest, at most one of each algorithm of the header.
func (p *parser) digests() []attest.Digest {
	count := p.Uint32()
	if p.Err() == nil && (count == 0 || count > uint32(len(p.algorithms))) {
		p.Fail(fmt.Errorf("%d digests for %d algorithms", count, len(p.algorithms)))
	}
	if p.Err() != nil {
		return nil
	}
	digests := make([]attest.Digest, 0, len(p.log.banks))
	seen := make([]attest.Hash, 0, count)
	for range count {
		id := attest.Hash(p.Uint16())
		row := slices.IndexFunc(p.algorithms, func(a algorithm) bool { return a.id == id })
		switch {
		case p.Err() != nil:
			return nil
		case row < 0:
			p.Fail(fmt.Errorf("a digest of %s, which the header does not declare", id))
		case slices.Contains(seen, id):
			p.Fail(fmt.Errorf("a second digest of %s", id))
		}
		if p.Err() != nil {
			return nil
		}
		seen = append(seen, id)
		sum := p.Take(p.algorithms[row].size)
		if digest, err := attest.NewDigest(id, sum); err == nil {
			digests = append(digests, digest)
		}
	}
	return digests
}
