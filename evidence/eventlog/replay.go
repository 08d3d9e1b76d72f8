package eventlog

import (
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/evidence/quote"
)

// bootPCRs are those that firmware and boot loader extend: the others are resettable, or belong to a dynamic root of trust
// (PC Client Platform TPM Profile, section 4.6), and no boot log explains them.
const bootPCRs = 16

// Replayed is a log whose events lead to quoted PCRs. The zero value is no evidence: Valid is false.
type Replayed struct {
	valid  bool
	values pcr.Values // those that were compared
	quoted pcr.Values
	events []Event
	quirks []Quirk
}

// Replay extends, in software, what the log says was extended, and compares each quoted PCR from 0 to 15 that is not in skip. The PCRs of
// measurement lists (10, and 11 where containers or IMA rules use it) are extended after the log ends and are for the caller to skip;
// the bank of skip means nothing.
//
// Every PCR that differs is a failure of its own, and after any failure Replayed is the zero value.
func (l Log) Replay(v quote.Verified, skip pcr.Selection) (Replayed, []attest.Failure) {
	if !v.Valid() {
		return Replayed{}, fail(attest.EvidenceUnverified, "The boot event log was to be replayed to a quote that was not verified.")
	}
	bank := v.Values().Bank
	if !slices.Contains(l.banks, bank) {
		return Replayed{}, fail(attest.EventLogPcrMismatch, "The boot event log has digests for %v and none for the quoted bank %s.", l.banks, bank)
	}
	values, counts, failures := l.extend(bank)
	compared := pcr.Values{Bank: bank, Digests: map[int]attest.Digest{}}
	for p := range bootPCRs {
		quoted, ok := v.Value(p)
		if !ok || skip.Has(p) {
			continue
		}
		compared.Digests[p] = quoted
		if values[p] != quoted {
			failures = append(failures, fail(attest.EventLogPcrMismatch, "The log's %d events for PCR %d lead to %s, the quote has %s.",
				counts[p], p, values[p], quoted)...)
		}
	}
	if len(compared.Digests) == 0 {
		failures = append(failures, fail(attest.EvidenceMissing, "The quote holds none of PCR 0 to %d, which a boot event log could be compared with.", bootPCRs-1)...)
	}
	if len(failures) > 0 {
		return Replayed{}, failures
	}
	return Replayed{valid: true, values: compared, quoted: v.Values(), events: l.eventsOf(compared.Selection()), quirks: l.quirks}, nil
}

func fail(id attest.FailureID, format string, args ...any) []attest.Failure {
	return []attest.Failure{attest.Fail(id, fmt.Sprintf(format, args...))}
}

// extend computes every PCR of a bank, and how many events each took.
func (l Log) extend(bank attest.Hash) (values [pcr.Count]attest.Digest, counts [pcr.Count]int, failures []attest.Failure) {
	for p := range values {
		values[p] = pcr.Initial(bank, p)
	}
	values[0] = startValue(bank, l.locality)
	for _, event := range l.events {
		if event.Type == NoAction {
			continue
		}
		digest, ok := event.Digest(bank)
		if !ok {
			failures = append(failures, fail(attest.EventLogPcrMismatch, "Event %d for PCR %d has no %s digest.", event.Number, event.PCR, bank)...)
			if len(failures) >= attest.MaxFailures {
				return values, counts, failures
			}
			continue
		}
		values[event.PCR] = pcr.Extend(values[event.PCR], digest.Bytes())
		counts[event.PCR]++
	}
	return values, counts, failures
}

// startValue is PCR 0 after TPM2_Startup at a locality: zeros and the locality in the last byte (TPM 2.0 Part 3, TPM2_Startup).
func startValue(bank attest.Hash, locality byte) attest.Digest {
	sum := pcr.Initial(bank, 0).Bytes()
	sum[len(sum)-1] = locality
	start, err := attest.NewDigest(bank, sum)
	if err != nil {
		panic(err) // an unknown bank, which Replay has refused
	}
	return start
}

func (l Log) eventsOf(s pcr.Selection) []Event {
	var events []Event
	for _, event := range l.events {
		if event.Type != NoAction && s.Has(event.PCR) {
			events = append(events, event)
		}
	}
	return events
}

// Valid reports whether r came from Replay.
func (r Replayed) Valid() bool { return r.valid }

// Bank returns the bank that was compared.
func (r Replayed) Bank() attest.Hash { return r.values.Bank }

// Value returns the value of PCR p, which the log and the quote agree on; ok is false where none was compared.
func (r Replayed) Value(p int) (value attest.Digest, ok bool) { return r.values.Get(p) }

// Events returns the events that extended the compared PCRs. Their order within a PCR and their digests are proven, type and data are not.
func (r Replayed) Events() []Event { return slices.Clone(r.events) }

// Quirks returns the deviations that were accepted.
func (r Replayed) Quirks() []Quirk { return slices.Clone(r.quirks) }

// BootAggregates returns what IMA's boot_aggregate may be, by the quoted values.
func (r Replayed) BootAggregates() []attest.Digest { return BootAggregates(r.quoted) }

// BootAggregates returns what IMA's boot_aggregate may be in a machine with these PCRs: the hash over PCR 0 to 9 in the algorithm of their
// bank, and, by kernels before 5.8 and always in the SHA-1 bank, over PCR 0 to 7 (security/integrity/ima/ima_crypto.c,
// ima_calc_boot_aggregate_tfm). It returns none without all of PCR 0 to 7.
func BootAggregates(v pcr.Values) []attest.Digest {
	if !v.Bank.Known() {
		return nil
	}
	var parts [][]byte
	var aggregates []attest.Digest
	for p := range 10 {
		value, ok := v.Get(p)
		if !ok {
			return aggregates
		}
		parts = append(parts, value.Bytes())
		if p == 7 || p == 9 && v.Bank != attest.SHA1 {
			aggregates = append(aggregates, v.Bank.Sum(parts...))
		}
	}
	return aggregates
}
