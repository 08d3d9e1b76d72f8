package ima

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"iter"
	"math"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// Request says what a list is replayed to.
type Request struct {
	// PCR is the register; 10 unless the kernel's policy says otherwise.
	PCR int
	// First is the position, counted in entries from boot, of the list's first entry. It is the agent's claim, which the PCR proves.
	First uint64
	// From is the State of the last accepted round of this boot and this PCR.
	From State
}

// Replayed is the part of a list that a quote vouches for. Only Replay makes a valid one.
type Replayed struct {
	list List
	pcr  uint8
	// first is the position of the list's first entry; records from start to end are new and proven, those from end on pending.
	first      uint64
	start, end int
	state      State
	valid      bool
}

// Replay compares a list with the quoted value of one PCR. After some entry the running value must be the quoted one (values do not
// repeat, so that there is one such place); an empty list whose PCR stands where From left it matches too. Entries before From.Position
// are skipped: they were proven.
//
// Replayed is valid if and only if the PCR was reached. A valid one can come together with TemplateHashMismatch or HeldEntriesChanged,
// which are failures of the list all the same, but not of what the PCR says of its entries.
//
// Failures: EvidenceUnverified, EvidenceMissing (the PCR is not quoted), BankMismatch (From is of another bank), ListRolledBack,
// ListPcrMismatch, TemplateHashMismatch, HeldEntriesChanged.
func (l List) Replay(v quote.Verified, r Request) (Replayed, []attest.Failure) {
	if !v.Valid() {
		return Replayed{}, fail(attest.EvidenceUnverified, "A measurement list was replayed without a verified quote.")
	}
	quoted, ok := v.Values().Get(r.PCR)
	if !ok {
		return Replayed{}, fail(attest.EvidenceMissing, "PCR %d, to which the measurement list belongs, is not in the quote of %s.", r.PCR, v.Values().Selection())
	}
	return l.replay(quoted, r)
}

// replay is Replay for the quoted value of r.PCR.
func (l List) replay(quoted attest.Digest, r Request) (Replayed, []attest.Failure) {
	from, failures := begin(r, quoted.Hash())
	if failures != nil {
		return Replayed{}, failures
	}
	start, failures := l.locate(r)
	if failures != nil {
		return Replayed{}, failures
	}
	w := walk{list: &l, pcr: uint8(r.PCR), start: start, from: from}
	reached, matched := w.match(quoted)
	failures = l.falseColumns(start, reached.end, r.First)
	failures = append(failures, w.checkHeld(reached.end, matched)...)
	if !matched {
		f := attest.Fail(attest.ListPcrMismatch, fmt.Sprintf("%d entries from position %d on replay to %s; PCR %d is %s.",
			len(l.records)-start, from.Position, reached.value, r.PCR, quoted))
		f.Seen = reached.value.String()
		return Replayed{}, append(failures, f)
	}
	return Replayed{
		list: l, pcr: w.pcr, first: r.First, start: start, end: reached.end, valid: true,
		state: State{
			Position: r.First + uint64(reached.end),
			PCR:      quoted,
			Forms:    reached.forms,
			Newlines: from.Newlines + l.newlines(start, reached.end),
			Held:     l.held(reached.end, len(l.records)),
		},
	}, failures
}

// Continues reports whether the list, from boot on, passes through state: whether it is the list that state was replayed from, whatever
// came after. It compares claims, and says nothing of a quote.
func (l List) Continues(state State, index int) bool {
	if state.Position > uint64(len(l.records)) {
		return false
	}
	if state.Position == 0 {
		return true
	}
	if index < 0 || index >= pcr.Count || !state.PCR.Hash().Known() {
		return false
	}
	l.records = l.records[:state.Position]
	from, _ := begin(Request{PCR: index}, state.PCR.Hash())
	w := walk{list: &l, pcr: uint8(index), from: from}
	reached, matched := w.match(state.PCR)
	return matched && reached.end == len(l.records)
}

func fail(id attest.FailureID, format string, args ...any) []attest.Failure {
	return []attest.Failure{attest.Fail(id, fmt.Sprintf(format, args...))}
}

// begin completes the state that a replay in the given bank starts from.
func begin(r Request, bank attest.Hash) (State, []attest.Failure) {
	from := r.From
	if from.PCR.IsZero() {
		from.PCR = pcr.Initial(bank, r.PCR)
	}
	if from.PCR.Hash() != bank {
		return State{}, fail(attest.BankMismatch, "The quote is of bank %s; the list was replayed in bank %s before.", bank, from.PCR.Hash())
	}
	if from.Forms == 0 {
		from.Forms = allForms
	}
	if bank == attest.SHA1 {
		from.Forms = 1 << native // there is nothing to pad
	}
	return from, nil
}

// locate returns the index of the first entry that is not proven yet.
func (l *List) locate(r Request) (int, []attest.Failure) {
	count := uint64(len(l.records))
	proven := r.From.Position
	switch {
	case r.First > proven:
		return 0, fail(attest.ListPcrMismatch, "The list begins at position %d; %d entries are proven, and those between are missing.", r.First, proven)
	case r.First+count < proven: // no overflow: First is at most proven, and count is small
		return 0, fail(attest.ListRolledBack, "The list ends after %d entries; %d were proven in this boot.", r.First+count, proven)
	case proven > math.MaxUint64-count:
		return 0, fail(attest.ListPcrMismatch, "Position %d is out of range.", proven)
	}
	return int(proven - r.First), nil
}

// walk extends a PCR by the entries of a list.
type walk struct {
	list  *List
	pcr   uint8
	start int
	from  State
}

// reached is where a walk ended: before which record, with which value, in which forms.
type reached struct {
	end   int
	value attest.Digest
	forms Forms
}

// match finds the place where the PCR has the value want. Without one, it tells the value after the last entry in the first form.
func (w *walk) match(want attest.Digest) (reached, bool) {
	var first reached
	for f := range formCount {
		if !w.from.Forms.has(f) {
			continue
		}
		at, ok := w.extend(f, want)
		if ok {
			at.forms = w.agreeing(f, at.end)
			return at, true
		}
		if first.value.IsZero() {
			first = at
		}
	}
	return first, false
}

// extend walks in one form until the PCR is want. Entries of other PCRs after the match change nothing and are passed.
func (w *walk) extend(f form, want attest.Digest) (reached, bool) {
	bank := want.Hash()
	size := bank.Size()
	var target [attest.MaxDigestSize]byte
	copy(target[:], want.Bytes())
	var buf [2 * attest.MaxDigestSize]byte
	value, digest := buf[:size], buf[size:2*size]
	copy(value, w.from.PCR.Bytes())
	matched := bytes.Equal(value, target[:size])
	// Nearly every entry of nearly every list: its extension without the questions that have one answer for the whole walk.
	usual := f == native && bank == attest.SHA256 && w.list.columnHash != bank
	i := w.start
	for ; i < len(w.list.records); i++ {
		r := &w.list.records[i]
		if r.pcr != w.pcr {
			continue
		}
		if matched {
			break
		}
		if usual && r.flags&flagViolation == 0 && r.template != templateIMA {
			*(*[sha256.Size]byte)(digest) = sha256.Sum256(w.list.raw[r.data : r.data+r.size])
		} else {
			w.list.extension(digest, f, bank, *r)
		}
		sumInto(value, bank, buf[:2*size])
		matched = bytes.Equal(value, target[:size])
	}
	end, _ := attest.NewDigest(bank, value) // fails for another size only
	return reached{end: i, value: end}, matched
}

// extension writes what the kernel extended for a record.
func (l *List) extension(to []byte, f form, bank attest.Hash, r record) {
	ones := len(to)
	switch {
	case r.flags&flagViolation != 0:
		if f == padded {
			ones = attest.SHA1.Size()
		}
		clear(to)
		for i := range ones {
			to[i] = 0xff
		}
	case f == native:
		l.sum(to, bank, r)
	default:
		clear(to)
		l.sum(to, attest.SHA1, r)
	}
}

// agreeing returns the forms that reach the same value as f by the records up to end.
func (w *walk) agreeing(f form, end int) Forms {
	var c content
	for _, r := range w.list.records[w.start:end] {
		if r.pcr != w.pcr {
			continue
		}
		if r.flags&flagViolation != 0 {
			c.violations = true
		} else {
			c.entries = true
		}
		if c.entries && c.violations {
			break
		}
	}
	var forms Forms
	for g := range formCount {
		if w.from.Forms.has(g) && f.agrees(g, c) {
			forms |= 1 << g
		}
	}
	return forms
}

// falseColumns reports entries whose template hash is not the hash of their data; those beyond end have their turn when a quote covers them.
func (l *List) falseColumns(start, end int, first uint64) []attest.Failure {
	if l.falseHashes == 0 {
		return nil
	}
	var failures []attest.Failure
	for i := start; i < end && len(failures) < attest.MaxFailures; i++ {
		r := l.records[i]
		if r.flags&flagFalse == 0 {
			continue
		}
		e := l.entry(i, first)
		var sum [attest.MaxDigestSize]byte
		l.hash(sum[:], l.columnHash, r)
		f := attest.Fail(attest.TemplateHashMismatch, fmt.Sprintf("Entry %d, %.200q, has the template hash %x; its data hash to %x.",
			e.Position, e.Path, e.TemplateHash(), sum[:l.columnHash.Size()]))
		f.Path, f.Seen, f.Entry = e.Path, fmt.Sprintf("%x", e.TemplateHash()), &e.Position
		failures = append(failures, f)
	}
	return failures
}

// checkHeld compares the list with what an earlier one showed beyond its match, and demands that the match now covers that. The
// kernel extends an entry right after it shows it, so that a quote of a later round holds it.
func (w *walk) checkHeld(end int, matched bool) []attest.Failure {
	held := w.from.Held
	if held == nil {
		return nil
	}
	shown := uint64(len(w.list.records) - w.start)
	position := w.from.Position
	if shown < held.Count {
		return fail(attest.HeldEntriesChanged, "%d entries from position %d on were shown ahead of the last quote; the list has %d of them.", held.Count, position, shown)
	}
	until := w.start + int(held.Count)
	if now := w.list.held(w.start, until); now != nil && now.Digest != held.Digest {
		f := attest.Fail(attest.HeldEntriesChanged, fmt.Sprintf("%d entries from position %d on are not those that were shown ahead of the last quote.", held.Count, position))
		f.Seen, f.Entry = now.Digest.String(), &position
		return []attest.Failure{f}
	}
	if matched && end < until {
		return fail(attest.HeldEntriesChanged, "%d entries from position %d on were shown ahead of the last quote; this quote covers %d of them.", held.Count, position, end-w.start)
	}
	return nil
}

// Valid reports whether a quote vouches for the entries. Appraisal refuses what is not valid.
func (r Replayed) Valid() bool { return r.valid }

// PCR returns the register that was replayed.
func (r Replayed) PCR() int { return int(r.pcr) }

// State is what the next round goes on from.
func (r Replayed) State() State { return r.state }

// Padded reports whether the bank holds only SHA-1 digests padded with zeros, which is no better than SHA-1.
func (r Replayed) Padded() bool { return r.state.Padded() }

// First is the position of the first new entry: where the State before ended.
func (r Replayed) First() uint64 { return r.first + uint64(r.start) }

// Len returns the number of entries of all PCRs from First to State().Position.
func (r Replayed) Len() int { return r.end - r.start }

// All returns the new proven entries one by one, without keeping them, and their positions. They are those of the replayed PCR.
func (r Replayed) All() iter.Seq2[uint64, Entry] {
	return r.list.walkEntries(r.first, r.start, r.end, func(p uint8) bool { return p == r.pcr })
}

// Except yields what All yields, but for the files that approved speaks for. It is asked for entries with a SHA-256 digest of a file and
// without a violation, and sees name and digest where they lie in the list: they are not to be kept or changed. Nearly all entries
// of nearly all lists are of that kind, and making an Entry of each costs more than to look it up.
func (r Replayed) Except(approved func(name, sha256 []byte) bool) iter.Seq2[uint64, Entry] {
	return func(yield func(uint64, Entry) bool) {
		for i := r.start; i < r.end; i++ {
			if r.list.records[i].pcr != r.pcr {
				continue
			}
			if name, sum, ok := r.list.plainFile(r.list.records[i]); ok && approved(name, sum) {
				continue
			}
			if !yield(r.first+uint64(i), r.list.entry(i, r.first)) {
				return
			}
		}
	}
}

// Entries returns the new proven entries. All needs less memory.
func (r Replayed) Entries() []Entry { return collect(r.All()) }

// Others returns the entries of other PCRs up to State().Position. The quoted PCR says nothing of them.
func (r Replayed) Others() []Entry {
	return collect(r.list.walkEntries(r.first, r.start, r.end, func(p uint8) bool { return p != r.pcr }))
}

// Pending returns the entries of all PCRs beyond the match. No quote covers them yet.
func (r Replayed) Pending() []Entry {
	return collect(r.list.walkEntries(r.first, r.end, len(r.list.records), anyPCR))
}

// ASCII returns the text of the Len entries from First on, of all PCRs.
func (r Replayed) ASCII() []byte { return r.list.appendASCII(nil, r.start, r.end) }
