package appraisal

import (
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/eventlog"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/policy"
)

// bootAggregate is the name of the entry by which the kernel binds the list to the boot PCRs (security/integrity/ima/ima_init.c).
const bootAggregate = "boot_aggregate"

// bufferTemplate is the template of entries that measure a buffer and not a file.
const bufferTemplate = "ima-buf"

// walk judges the entries of a list in their order.
type walk struct {
	subject  *subject
	result   *attest.Result
	progress Progress
	// aggregates are the values that boot_aggregate may have.
	aggregates      []attest.Digest
	aggregateFailed bool
	// imaPolicies are the approved ones of all documents. Where no document names any, ordered is false, and the loading is not judged.
	imaPolicies []attest.Digest
	ordered     bool
	// policyPaths are where they are loaded from.
	policyPaths []string
	keys        []policy.Key
	// settled says that an approved digest alone decides: the list has begun, no key may be signed with, an IMA policy is loaded.
	settled bool
	// early is the first entry that came before an IMA policy and must not; earlyCount counts them.
	early      *attest.Failure
	earlyCount int
}

// walkList judges the new entries of the list, if there are documents for it, and returns the progress that was made.
func (s *subject) walkList(result *attest.Result) Progress {
	if s.list == nil {
		return s.in.Progress
	}
	w := s.newWalk(result)
	if len(s.runtimes) > 0 {
		atBoot := s.list.First() == 0
		for _, e := range s.list.Except(w.approved) {
			if atBoot && !isAggregate(&e) {
				w.aggregateFailed = true
				w.fail(&e, attest.BootAggregateMismatch, w.aggregates, "The list begins with %.200q and not with boot_aggregate.", e.Path)
			}
			atBoot = false
			w.judge(&e)
			w.settled = len(w.keys) == 0 && (!w.ordered || w.progress.IMAPolicy)
		}
		w.end()
	}
	w.progress.Position = s.list.State().Position
	return w.progress
}

func (s *subject) newWalk(result *attest.Result) *walk {
	w := &walk{subject: s, result: result, progress: s.in.Progress, aggregates: eventlog.BootAggregates(s.values)}
	w.progress.Keys = slices.Clone(w.progress.Keys)
	for _, p := range s.runtimes {
		w.aggregates = append(w.aggregates, p.BootAggregates()...)
		w.imaPolicies = append(w.imaPolicies, p.IMAPolicies()...)
		w.policyPaths = append(w.policyPaths, p.IMAPolicyPaths()...)
		w.keys = append(w.keys, p.Keys()...)
	}
	w.ordered = len(w.imaPolicies) > 0
	w.imaPolicies = slices.DeleteFunc(w.imaPolicies, func(d attest.Digest) bool { return slices.Contains(s.in.RefusedIMAPolicies, d) })
	for _, learned := range w.progress.Keys {
		if key, err := policy.ParseKey(learned.DER); err == nil { // one that does not parse vouches for nothing
			w.keys = append(w.keys, key)
		}
	}
	return w
}

// judge applies to an entry the order of the IMA policy and the one rule for what it is.
func (w *walk) judge(e *ima.Entry) {
	w.order(e)
	switch {
	case e.Violation:
		w.violation(e)
	case e.Template == bufferTemplate:
		w.buffer(e)
	case isAggregate(e):
		w.aggregate(e)
	case w.loadsPolicy(e):
		w.imaPolicy(e)
	default:
		w.file(e)
	}
}

// fail reports an entry. The sentence is not made when nobody would see it: a hostile list can have millions of failures.
func (w *walk) fail(e *ima.Entry, id attest.FailureID, allowed []attest.Digest, format string, args ...any) {
	if len(w.result.Failures) >= attest.MaxFailures && w.result.Has(id) {
		w.result.Suppressed++
		return
	}
	f := attest.Fail(id, fmt.Sprintf(format, args...))
	position := e.Position
	f.Path, f.Seen, f.Allowed, f.Policy, f.Entry = e.Path, seen(e), capped(allowed), w.subject.names, &position
	w.result.Add(f)
}

// seen writes the digest of an entry, of whatever algorithm.
func seen(e *ima.Entry) string {
	if !e.Digest.IsZero() {
		return e.Digest.String()
	}
	algorithm, sum := e.RawDigest()
	return fmt.Sprintf("%.20s:%x", algorithm, sum)
}

// violation: the kernel could not vouch for what was read. Neither path nor digest of it are covered by a PCR.
func (w *walk) violation(e *ima.Entry) {
	if w.any(func(p *policy.Runtime) bool { return p.ExemptsViolation(e.Path) }) {
		return
	}
	w.fail(e, attest.Violation, nil, "Entry %d: a violation, by the list (which no PCR covers here) of %.200q.", e.Position, e.Path)
}

func (w *walk) any(approves func(*policy.Runtime) bool) bool {
	return slices.ContainsFunc(w.subject.runtimes, approves)
}

// approved is the short way for nearly every entry of nearly every list. It says nothing that judge would not say.
func (w *walk) approved(path, sha256 []byte) bool {
	if !w.settled {
		return false
	}
	for _, place := range w.policyPaths {
		if place == string(path) {
			return false
		}
	}
	for _, p := range w.subject.runtimes {
		if p.ApprovesFile(path, sha256) {
			return true
		}
	}
	return false
}

// isAggregate reports whether an entry is a boot_aggregate. A violation's name is covered by no PCR, and a buffer may have any name.
func isAggregate(e *ima.Entry) bool {
	return e.Path == bootAggregate && !e.Violation && e.Template != bufferTemplate
}

// aggregate: a kexec that hands the list over makes another one later, for which the same holds.
func (w *walk) aggregate(e *ima.Entry) {
	switch bank := w.subject.values.Bank; {
	case slices.Contains(w.aggregates, e.Digest):
		w.progress.BootAggregate = true
		return
	case e.Digest.Hash() != bank:
		w.fail(e, attest.BootAggregateMismatch, w.aggregates,
			"boot_aggregate is %s, over a bank that is not quoted; the quote is of bank %s, so that only a value of a policy could vouch for it.", seen(e), bank)
	default:
		w.fail(e, attest.BootAggregateMismatch, w.aggregates, "boot_aggregate is %s, which is not the hash over the quoted PCR 0 to 7, or 0 to 9.", seen(e))
	}
	w.aggregateFailed = true
}

// order notes what was measured before an approved IMA policy was loaded.
func (w *walk) order(e *ima.Entry) {
	if w.progress.IMAPolicy || !w.ordered || isAggregate(e) || w.loadsPolicy(e) {
		return
	}
	if w.any(func(p *policy.Runtime) bool { return p.EarlyBoot(e.Path) }) {
		return
	}
	if w.earlyCount++; w.early == nil {
		position := e.Position
		w.early = &attest.Failure{Path: e.Path, Seen: seen(e), Entry: &position}
	}
}

// loadsPolicy reports whether an entry is the loading of an IMA policy: by its path, or of its rules as critical data.
func (w *walk) loadsPolicy(e *ima.Entry) bool {
	if e.Violation || !w.ordered && !slices.Contains(w.subject.in.RefusedIMAPolicies, e.Digest) {
		return false
	}
	if e.Template == bufferTemplate {
		return policy.IsPolicyBuffer(e)
	}
	return slices.Contains(w.policyPaths, e.Path)
}

// imaPolicy: each loaded policy must be an approved one, the first and any later one.
func (w *walk) imaPolicy(e *ima.Entry) {
	if slices.Contains(w.imaPolicies, e.Digest) {
		w.progress.IMAPolicy = true
		return
	}
	w.fail(e, attest.ImaPolicyNotApproved, w.imaPolicies, "Entry %d: the IMA policy %.200q with digest %s was loaded, which no document approves.", e.Position, e.Path, seen(e))
}

// end makes the failures that only the end of the list shows.
func (w *walk) end() {
	if w.early != nil {
		f := attest.Fail(attest.ImaPolicyNotApproved, fmt.Sprintf("%d entries were measured before an approved IMA policy was loaded; the first is entry %d, %.200q.",
			w.earlyCount, *w.early.Entry, w.early.Path))
		f.Path, f.Seen, f.Entry, f.Allowed, f.Policy = w.early.Path, w.early.Seen, w.early.Entry, capped(w.imaPolicies), w.subject.names
		w.result.Add(f)
	} else if w.ordered && !w.progress.IMAPolicy {
		f := attest.Fail(attest.ImaPolicyNotApproved, "No approved IMA policy was loaded.")
		f.Allowed, f.Policy = capped(w.imaPolicies), w.subject.names
		w.result.Add(f)
	}
	if !w.progress.BootAggregate && !w.aggregateFailed && w.subject.list.State().Position > 0 {
		w.result.Add(w.subject.named(fail(attest.BootAggregateMismatch, "No good boot_aggregate was seen in this boot."))...)
	}
}
