package attest

import "slices"

// FailureID is the stable name of a failed check: a CamelCase word that serves as a Kubernetes condition reason too.
type FailureID string

// The failed checks. The table in Infos says what each means and what helps.
const (
	QuoteSignatureInvalid FailureID = "QuoteSignatureInvalid"
	QuoteMalformed        FailureID = "QuoteMalformed"
	NonceMismatch         FailureID = "NonceMismatch"
	SelectionMismatch     FailureID = "SelectionMismatch"
	PcrMissing            FailureID = "PcrMissing"
	PcrUnexpected         FailureID = "PcrUnexpected"
	BankMismatch          FailureID = "BankMismatch"
	PcrDigestMismatch     FailureID = "PcrDigestMismatch"
	PcrValueNotAllowed    FailureID = "PcrValueNotAllowed"
	TransportKeyMismatch  FailureID = "TransportKeyMismatch"
	AkAttributes          FailureID = "AkAttributes"
	AkUnknown             FailureID = "AkUnknown"
	EkNotEndorsed         FailureID = "EkNotEndorsed"
	ClockRollback         FailureID = "ClockRollback"
	ListRolledBack        FailureID = "ListRolledBack"
	ListRestarted         FailureID = "ListRestarted"
	ListPcrMismatch       FailureID = "ListPcrMismatch"
	ListMalformed         FailureID = "ListMalformed"
	TemplateHashMismatch  FailureID = "TemplateHashMismatch"
	HeldEntriesChanged    FailureID = "HeldEntriesChanged"
	BootAggregateMismatch FailureID = "BootAggregateMismatch"
	EventLogMalformed     FailureID = "EventLogMalformed"
	EventLogPcrMismatch   FailureID = "EventLogPcrMismatch"
	FileNotInPolicy       FailureID = "FileNotInPolicy"
	FileDigestMismatch    FailureID = "FileDigestMismatch"
	FileSignatureInvalid  FailureID = "FileSignatureInvalid"
	BufferDigestMismatch  FailureID = "BufferDigestMismatch"
	Violation             FailureID = "Violation"
	WeakBank              FailureID = "WeakBank"
	ImaPolicyNotApproved  FailureID = "ImaPolicyNotApproved"
	EvidenceMissing       FailureID = "EvidenceMissing"
	EvidenceUnverified    FailureID = "EvidenceUnverified"
	EvidenceMalformed     FailureID = "EvidenceMalformed"
	AgentKeyMismatch      FailureID = "AgentKeyMismatch"
	Unreachable           FailureID = "Unreachable"
)

// Class says what kind of trouble a failure is, and so what it may do to a verdict.
type Class string

const (
	// Unauthenticated: the answer gave no verified quote. The next accepted quote whose evidence passes ends it.
	Unauthenticated Class = "Unauthenticated"
	// Integrity: verified evidence contradicts itself or the quote.
	Integrity Class = "Integrity"
	// Policy: verified evidence is not what a policy approves.
	Policy Class = "Policy"
	// Availability: nobody answered. It ends in Stale and never in Failed.
	Availability Class = "Availability"
)

// Severity grades a failure, least first.
type Severity int

// The severities, with Keylime's labels.
const (
	Info Severity = iota
	Notice
	Warning
	Error
	Critical
	Alert
	Emergency
)

var severityNames = [...]string{"info", "notice", "warning", "error", "critical", "alert", "emergency"}

// String returns the label, or "unknown".
func (s Severity) String() string {
	if s < Info || s > Emergency {
		return "unknown"
	}
	return severityNames[s]
}

// MarshalText writes the label.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a label.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames[:], string(text))
	if i < 0 {
		return &SeverityError{Label: string(text)}
	}
	*s = Severity(i)
	return nil
}

// SeverityError names a label that is no severity.
type SeverityError struct{ Label string }

// Error names the label.
func (e *SeverityError) Error() string { return "unknown severity " + e.Label }

// FailureInfo is one row of the table of failures.
type FailureInfo struct {
	ID       FailureID
	Class    Class
	Severity Severity
	// Sentence says what was found, Remedy what a person does about it.
	Sentence, Remedy string
}

// Info returns the row of id. An unknown id gets the worst of everything, so that a forgotten row fails closed.
func (id FailureID) Info() FailureInfo {
	for _, info := range infos {
		if info.ID == id {
			return info
		}
	}
	return FailureInfo{ID: id, Class: Integrity, Severity: Emergency, Sentence: "An unknown check failed.", Remedy: "Report this as a bug."}
}

// Infos returns the table of all failures.
func Infos() []FailureInfo { return slices.Clone(infos[:]) }

var infos = [...]FailureInfo{
	{QuoteSignatureInvalid, Unauthenticated, Critical, "The quote's signature does not verify with the enrolled AK.", "Find out who answers at the agent's address; if the machine was reimaged, enrol it again."},
	{QuoteMalformed, Unauthenticated, Critical, "The quote is not a well-formed TPM 2.0 quote.", "Update the agent; if it is current, treat the machine as compromised."},
	{NonceMismatch, Unauthenticated, Critical, "The quote does not carry the nonce of this round.", "Look for a replay between server and agent."},
	{SelectionMismatch, Unauthenticated, Critical, "The signed PCR selection is not the selection of the PCR values.", "Treat the agent as hostile."},
	{PcrMissing, Unauthenticated, Critical, "A PCR that was asked for is not in the quote.", "Update the agent; if it is current, treat it as hostile."},
	{PcrUnexpected, Unauthenticated, Critical, "The quote holds a PCR that was not asked for.", "Update the agent; if it is current, treat it as hostile."},
	{BankMismatch, Unauthenticated, Critical, "The quote is over another PCR bank than the one that was asked for, or over more than one.", "Check that the bank is active in the TPM."},
	{PcrDigestMismatch, Unauthenticated, Critical, "The PCR values do not hash to the signed digest.", "Treat the agent as hostile."},
	{PcrValueNotAllowed, Policy, Critical, "A PCR has a value that the policy does not list.", "Compare with a machine that is known to be good; add the value to the policy if it is approved."},
	{TransportKeyMismatch, Unauthenticated, Critical, "The agent's transport key is not the one that PCR 16 binds, or it changed within a boot.", "Look for another process that uses PCR 16, or for a party in the middle."},
	{AkAttributes, Unauthenticated, Critical, "The attestation key is not a restricted signing key that is fixed to its TPM.", "Remove the agent and register it again with an AK of the required kind."},
	{AkUnknown, Unauthenticated, Critical, "No activated attestation key is registered for this agent.", "Start the agent so that it registers, then enrol it."},
	{EkNotEndorsed, Unauthenticated, Critical, "No certificate chain leads from the endorsement key to an accepted vendor root.", "Add the vendor's root with `assay endorsement add`, or enrol with --first-use where the server allows it."},
	{ClockRollback, Integrity, Alert, "The TPM's clock or its reset counters went back.", "Look for a restored virtual machine snapshot or a cleared TPM; reattest once it is explained."},
	{ListRolledBack, Integrity, Alert, "The measurement list is shorter than the part that was already proven in this boot.", "Treat the machine as compromised."},
	{ListRestarted, Integrity, Error, "The measurement list started again although the TPM was not reset (kexec does that).", "The machine needs a real reboot."},
	{ListPcrMismatch, Integrity, Alert, "The measurement list does not replay to the quoted PCR.", "Treat the machine as compromised; a reboot starts a new list."},
	{ListMalformed, Integrity, Alert, "The measurement list cannot be parsed.", "Update the agent; if it is current, treat the machine as compromised."},
	{TemplateHashMismatch, Integrity, Alert, "A list entry's template hash is not the hash of its data.", "Treat the machine as compromised."},
	{HeldEntriesChanged, Integrity, Alert, "Entries that were shown ahead of the last quote are not the ones that the next quote covers.", "Treat the machine as compromised."},
	{BootAggregateMismatch, Integrity, Alert, "boot_aggregate is not the hash over the quoted boot PCRs.", "Treat the machine as compromised, or look for kexec."},
	{EventLogMalformed, Integrity, Critical, "The boot event log cannot be parsed.", "Report the firmware with the stored log."},
	{EventLogPcrMismatch, Integrity, Critical, "The boot event log does not replay to the quoted PCRs.", "Treat the machine as compromised, or report the firmware with the stored log."},
	{FileNotInPolicy, Policy, Critical, "A file was used that no entry of the policy names.", "Find out where the file comes from; add it to the policy if it is approved."},
	{FileDigestMismatch, Policy, Critical, "A file was used whose digest is not one of those that the policy lists for it.", "Restore the file and reboot; or approve the new version by a new policy."},
	{FileSignatureInvalid, Policy, Critical, "A file's signature does not verify with a key of the policy.", "Restore the signed file and reboot."},
	{BufferDigestMismatch, Integrity, Alert, "A measured buffer does not hash to the digest of its entry.", "Treat the machine as compromised."},
	{Violation, Policy, Error, "The kernel saw a file being written while it was measured.", "Find out who writes the file; exempt the path in the policy if that is approved."},
	{WeakBank, Policy, Error, "The list replays only with SHA-1 digests that are padded to the bank's size.", "Boot a kernel that extends every bank with its own hash, or allow the weak bank in the policy."},
	{ImaPolicyNotApproved, Policy, Critical, "Files were measured before an approved IMA policy was loaded, or none was loaded.", "Install /etc/ima/ima-policy from deploy/ima and reboot; list its digest in the Runtime document."},
	{EvidenceMissing, Policy, Critical, "A policy needs evidence that the agent did not send.", "Check the agent's preflight: IMA, boot log and PCR banks."},
	{EvidenceUnverified, Integrity, Emergency, "Evidence reached appraisal without having been verified.", "Report this as a bug."},
	{EvidenceMalformed, Unauthenticated, Critical, "The agent's answer cannot be parsed.", "Update the agent; look at what answers at its address."},
	{AgentKeyMismatch, Unauthenticated, Critical, "Who answers at the agent's address does not hold the TLS key that the agent registered.", "Find out who answers there: another machine that took the name or address, or a party in the middle."},
	{Unreachable, Availability, Warning, "The agent did not answer.", "Check the agent's service and the network between server and agent."},
}
