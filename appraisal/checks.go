package appraisal

import (
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/pcr"
	"github.com/assay-project/assay/policy"
)

func fail(id attest.FailureID, format string, args ...any) []attest.Failure {
	return []attest.Failure{attest.Fail(id, fmt.Sprintf(format, args...))}
}

// documentsParsed refuses documents that no parser made: they approve nothing and would forbid nothing.
func documentsParsed(s *subject) []attest.Failure {
	if s.broken == 0 {
		return nil
	}
	return fail(attest.EvidenceUnverified, "%d of %d policy documents were not parsed.", s.broken, len(s.in.Policies))
}

// evidenceVerified refuses zero values, and lists and logs that were replayed to another quote than this one.
func evidenceVerified(s *subject) []attest.Failure { return unverified(s.in.Evidence) }

func unverified(e Evidence) []attest.Failure {
	if !e.Quote.Valid() {
		return fail(attest.EvidenceUnverified, "The quote was not verified.")
	}
	var failures []attest.Failure
	if e.IMA != nil {
		value, quoted := e.Quote.Value(e.IMA.PCR())
		switch {
		case !e.IMA.Valid():
			failures = fail(attest.EvidenceUnverified, "The measurement list was not replayed.")
		case e.IMA.PCR() != imaPCR:
			failures = fail(attest.EvidenceUnverified, "The measurement list was replayed to PCR %d and not to PCR %d.", e.IMA.PCR(), imaPCR)
		case !quoted || value != e.IMA.State().PCR:
			failures = fail(attest.EvidenceUnverified, "The measurement list was replayed to another quote.")
		}
	}
	if e.EventLog == nil {
		return failures
	}
	if !e.EventLog.Valid() {
		return append(failures, fail(attest.EvidenceUnverified, "The boot event log was not replayed.")...)
	}
	for p := range pcr.Count {
		replayed, ok := e.EventLog.Value(p)
		if quoted, _ := e.Quote.Value(p); ok && replayed != quoted {
			return append(failures, fail(attest.EvidenceUnverified, "The boot event log was replayed to another quote.")...)
		}
	}
	return failures
}

// evidencePresent demands what the documents are about, and that the list goes on where the last one ended.
func evidencePresent(s *subject) []attest.Failure {
	var failures []attest.Failure
	for _, p := range Needs(s.in.Policies).PCRs() {
		if _, quoted := s.values.Get(p); !quoted && len(s.refs) > 0 && s.in.Evidence.Quote.Valid() {
			failures = append(failures, fail(attest.EvidenceMissing, "PCR %d is not in the quote.", p)...)
		}
	}
	if len(s.runtimes) == 0 {
		return failures
	}
	return append(failures, s.named(s.listMissing())...)
}

func (s *subject) listMissing() []attest.Failure {
	switch {
	case s.in.Evidence.IMA == nil:
		return fail(attest.EvidenceMissing, "The agent sent no measurement list.")
	case s.list == nil:
		return nil // evidenceVerified tells
	case s.list.First() != s.in.Progress.Position:
		return fail(attest.EvidenceMissing, "Entries up to %d were judged, and the list goes on at %d.", s.in.Progress.Position, s.list.First())
	case s.list.State().Position == 0:
		return fail(attest.EvidenceMissing, "The measurement list is empty: the kernel measures nothing.")
	}
	return nil
}

// bankStrong refuses banks that hold no better than SHA-1.
func bankStrong(s *subject) []attest.Failure {
	if s.list == nil || len(s.runtimes) == 0 || slices.ContainsFunc(s.runtimes, (*policy.Runtime).AllowsWeakBank) {
		return nil
	}
	switch {
	case s.list.Padded():
		return s.named(fail(attest.WeakBank, "The list replays to bank %s with SHA-1 digests that are padded with zeros.", s.values.Bank))
	case s.values.Bank == attest.SHA1:
		return s.named(fail(attest.WeakBank, "The quote is of bank sha1."))
	}
	return nil
}

// named says that all Runtime documents together failed.
func (s *subject) named(failures []attest.Failure) []attest.Failure {
	for i := range failures {
		failures[i].Policy = s.names
	}
	return failures
}

// pcrValuesAllowed compares the quoted values with the Pcr documents. A PCR that several list may have any of their values.
func pcrValuesAllowed(s *subject) []attest.Failure {
	if !s.in.Evidence.Quote.Valid() {
		return nil
	}
	var failures []attest.Failure
	var allowed [pcr.Count][]attest.Digest
	var names [pcr.Count][]string
	for _, d := range s.pcrs {
		selection := d.Pcr().Selection(s.values.Bank)
		if selection.Len() == 0 {
			f := attest.Fail(attest.EvidenceMissing, fmt.Sprintf("The document has no values for the quoted bank %s.", s.values.Bank))
			f.Policy = d.Name()
			failures = append(failures, f)
		}
		for _, p := range selection.PCRs() {
			allowed[p] = append(allowed[p], d.Pcr().Allowed(s.values.Bank, p)...)
			names[p] = append(names[p], d.Name())
		}
	}
	for p := range allowed {
		value, quoted := s.values.Get(p)
		if len(allowed[p]) == 0 || !quoted || slices.Contains(allowed[p], value) {
			continue // evidencePresent tells of one that is not quoted
		}
		f := attest.Fail(attest.PcrValueNotAllowed, fmt.Sprintf("PCR %d is %s.", p, value))
		f.Seen, f.Allowed, f.Policy = value.String(), capped(allowed[p]), strings.Join(names[p], ", ")
		failures = append(failures, f)
	}
	return failures
}

// capped writes at most attest.MaxAllowed digests.
func capped(digests []attest.Digest) []string {
	all := make([]string, 0, min(len(digests), attest.MaxAllowed))
	for _, d := range digests[:min(len(digests), attest.MaxAllowed)] {
		all = append(all, d.String())
	}
	return all
}
