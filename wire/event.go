package wire

import (
	"strconv"
	"strings"

	"github.com/assay-project/assay/attest"
)

// Event is a failed check as Keylime names it, in last_event_id and in revocation messages.
type Event struct {
	Failure attest.FailureID
	// PCR is the register that the failure is about, or nil. It shows only where Keylime's id names one.
	PCR *int
}

// unknownEvent is the id of a failure that the table lacks: as grave as any, since severity policies of users commonly match everything.
const unknownEvent = "internal.verifier.exception"

// pcrSuffix stands at the end of an id that names a PCR, nameSuffix at the end of one that goes on with a word of the user's policy.
const (
	pcrSuffix  = "_N"
	nameSuffix = "*"
)

// eventRow is one failure and one id.
type eventRow struct {
	failure attest.FailureID
	id      string
}

// events has a row for each failure of attest's table. Where we tell apart what Keylime does not, several rows have one id; the first of them is
// what the id means when it is read. A failure without a counterpart has the id that Keylime 7.14.3 reports for the same evidence, because
// that is what its users' severity policies match; where it would report nothing, the nearest check. The comment says which.
var events = [...]eventRow{
	{attest.QuoteSignatureInvalid, "qoute_validation.quote_validation"},
	{attest.NonceMismatch, "qoute_validation.quote_validation"},
	{attest.SelectionMismatch, "qoute_validation.quote_validation"},
	{attest.PcrDigestMismatch, "qoute_validation.quote_validation"},
	{attest.ClockRollback, "qoute_validation.quote_validation"},
	// Keylime takes any bit mask that comes back; ours says that the quote is not what was asked for.
	{attest.PcrUnexpected, "qoute_validation.quote_validation"},
	// Keylime's verifier is given the AK and judges neither its attributes nor the EK. Without them a quote proves nothing.
	{attest.AkAttributes, "qoute_validation.quote_validation"},
	{attest.AkUnknown, "qoute_validation.quote_validation"},
	{attest.EkNotEndorsed, "qoute_validation.quote_validation"},
	{attest.QuoteMalformed, "qoute_validation.invalid_quote"},
	{attest.EvidenceMalformed, "qoute_validation.invalid_data"},
	{attest.BankMismatch, "qoute_validation.invalid_hash_alg"},
	{attest.ListRolledBack, "qoute_validation.invalid_ima_entry_nb"},

	{attest.TransportKeyMismatch, "pcr_validation.invalid_pcr_16"},
	{attest.PcrValueNotAllowed, "pcr_validation.invalid_pcr_N"},
	{attest.EvidenceMissing, "pcr_validation.missing_pcrs"},
	{attest.PcrMissing, "pcr_validation.missing_pcrs"},

	{attest.EventLogPcrMismatch, "measured_boot.invalid_pcr_N"},
	{attest.EventLogMalformed, "measured_boot.parser.tpm2_eventlog.error"},

	{attest.ListPcrMismatch, "ima.pcr_mismatch"},
	// Keylime sees that the list, read from its start, does not lead to the PCR; it knows no kexec.
	{attest.ListRestarted, "ima.pcr_mismatch"},
	// Keylime replays each bank with the bank's own hash only, so padded SHA-1 digests do not lead to the PCR.
	{attest.WeakBank, "ima.pcr_mismatch"},
	{attest.HeldEntriesChanged, "ima.quote_progress"},
	{attest.ListMalformed, "ima.parser.entry"},
	{attest.TemplateHashMismatch, "ima.validation.ima_hash"},
	// Keylime never hashes a buffer. The nearest is its check that an entry hashes to what it says.
	{attest.BufferDigestMismatch, "ima.validation.ima_hash"},
	{attest.Violation, "ima.validation.tomtou"},
	{attest.FileNotInPolicy, "ima.validation.ima-ng.not_in_allowlist"},
	{attest.FileDigestMismatch, "ima.validation.ima-ng.runtime_policy_hash"},
	// boot_aggregate is a path like others to Keylime, and so is the IMA policy that the kernel was given.
	{attest.BootAggregateMismatch, "ima.validation.ima-ng.runtime_policy_hash"},
	{attest.ImaPolicyNotApproved, "ima.validation.ima-ng.runtime_policy_hash"},
	{attest.FileSignatureInvalid, "ima.validator.ima-sig.invalid_signature"},

	{attest.Unreachable, "internal.verifier.not_reachable"},
	// To Keylime a TLS handshake with another's certificate is a connection that failed.
	{attest.AgentKeyMismatch, "internal.verifier.not_reachable"},
	// Not a finding about the machine: a mistake in the verifier, on either side.
	{attest.EvidenceUnverified, unknownEvent},
}

// furtherEvents are Keylime's other ids, with what comes nearest among ours.
var furtherEvents = [...]eventRow{
	{attest.TransportKeyMismatch, "qoute_validation.no_pubkey"},
	{attest.AkAttributes, "qoute_validation.invalid_enc_alg"},
	{attest.AkAttributes, "qoute_validation.invalid_sign_alg"},

	{attest.PcrMissing, "pcr_validation.missing_pcr_16"},
	{attest.EvidenceMissing, "pcr_validation.unused_pcr_N"}, // a PCR without the list that it stands for
	// A measured boot policy that cannot be evaluated: nothing was verified. Ours refuses such a document when it is added.
	{attest.EvidenceUnverified, "pcr_validation.invalid_mb_policy"},
	{attest.EvidenceUnverified, "pcr_validation.invalid_measured_boot_evaluate"},

	{attest.EvidenceMissing, "measured_boot.missing_pcrs"},
	{attest.PcrValueNotAllowed, "measured_boot.policy_*"}, // the boot is not what the named policy approves
	{attest.EventLogMalformed, "measured_boot.parser.yaml"},
	{attest.EventLogMalformed, "measured_boot.parser.bootlog_enrich"},
	{attest.EventLogMalformed, "measured_boot.parser.invalid_pcrs"},
	{attest.EventLogMalformed, "measured_boot.parser.invalid_pcrs_hashes"},
	{attest.EventLogMalformed, "measured_boot.parser.invalid_boot_aggregates"},

	{attest.ListMalformed, "ima.validation.ima_pcr"},
	{attest.ListMalformed, "ima.validation.no_validator"},
	{attest.FileSignatureInvalid, "ima.validator.ima-sig.invalid_key"},
	{attest.FileSignatureInvalid, "ima.invalid_key"},
	{attest.FileNotInPolicy, "ima.validation.dm.*"}, // device mapper: a table that no rule of the policy approves

	{attest.Unreachable, "internal.verifier.not_reachable_v"},
	// The agent answered, and with something else than a quote.
	{attest.EvidenceMalformed, "internal.verifier.no_quote"},
	{attest.EvidenceMalformed, "internal.verifier.no_v"},
	{attest.EvidenceMalformed, "internal.verifier.version_not_supported"},

	// Reports of confidential machines, which stand in place of quotes.
	{attest.EvidenceMalformed, "tee_attestation.invalid_input"},
	{attest.EkNotEndorsed, "tee_attestation.vcek_fetch"},
	{attest.TransportKeyMismatch, "tee_attestation.invalid_public_key"},
	{attest.QuoteSignatureInvalid, "tee_attestation.invalid_signature"},
	{attest.NonceMismatch, "tee_attestation.freshness_hash_failed"},
}

// ID returns Keylime's id, with its misspelling. Without a PCR the number is left out ("pcr_validation.invalid_pcr"). A failure that the table lacks is
// internal.verifier.exception.
func (e Event) ID() string {
	for _, row := range events {
		if row.failure != e.Failure {
			continue
		}
		stem, numbered := strings.CutSuffix(row.id, pcrSuffix)
		if numbered && e.PCR != nil {
			return stem + "_" + strconv.Itoa(*e.PCR)
		}
		return stem
	}
	return unknownEvent
}

// ParseEvent reads one of Keylime's ids. It returns false for an id that Keylime 7.14.3 does not have.
func ParseEvent(id string) (Event, bool) {
	// Exact ids first: invalid_pcr_16 is also an invalid_pcr_N.
	for _, row := range allEvents() {
		if row.id == id && !strings.HasSuffix(id, pcrSuffix) && !strings.HasSuffix(id, nameSuffix) {
			return Event{Failure: row.failure}, true
		}
	}
	for _, row := range allEvents() {
		if pcr, ok := row.pcr(id); ok {
			return Event{Failure: row.failure, PCR: pcr}, true
		}
		prefix, named := strings.CutSuffix(row.id, nameSuffix)
		if named && len(id) > len(prefix) && strings.HasPrefix(id, prefix) {
			return Event{Failure: row.failure}, true
		}
	}
	return Event{}, false
}

// maxPCR is the highest PCR of a PC client TPM.
const maxPCR = 23

// pcr returns the PCR of an id that is the row's, or nil where the id is the row's without a number.
func (r eventRow) pcr(id string) (*int, bool) {
	stem, numbered := strings.CutSuffix(r.id, pcrSuffix)
	if !numbered {
		return nil, false
	}
	rest, found := strings.CutPrefix(id, stem)
	if !found || rest == "" {
		return nil, found
	}
	number, err := strconv.Atoi(strings.TrimPrefix(rest, "_"))
	if err != nil || number < 0 || number > maxPCR || rest != "_"+strconv.Itoa(number) {
		return nil, false
	}
	return &number, true
}

func allEvents() []eventRow { return append(events[:len(events):len(events)], furtherEvents[:]...) }
