package machine

import "github.com/assay-project/assay/attest"

// Terms are what an assignment asks of the machine beside the documents. The zero Terms let nothing pass.
type Terms struct {
	// Readmits: a machine that failed in an earlier boot comes back by a new boot alone. Otherwise a person lets it in.
	Readmits bool
	// Endorsed is whether the assignment takes the word of who endorsed the TPM.
	Endorsed Word
	// Enrolled is whether the word that the node was enrolled by still holds. It is found out for each answer.
	Enrolled Word
	// RefusedIMAPolicies count as approved by no document.
	RefusedIMAPolicies []attest.Digest
}

// Word is whether somebody's word for a TPM counts. The zero Word does not.
type Word struct {
	counts bool
	why    attest.Failure
}

// Counts is a word that counts.
func Counts() Word { return Word{counts: true} }

// Doubted is a word that does not count, and why.
func Doubted(why attest.Failure) Word { return Word{why: why} }

// Doubt says why a word does not count; nil where it does.
func (w Word) Doubt() *attest.Failure {
	switch {
	case w.counts:
		return nil
	case w.why.ID == "":
		w.why = attest.Fail(attest.EkNotEndorsed, "Nobody found out whether the word counts that endorses the TPM.")
	}
	return &w.why
}

// unendorsed lets no verdict but a Failed that a quote proves stand where the word that the node was enrolled by does not hold. It is of class
// Unauthenticated, like an answer of which nobody knows whose it is, and ends with the next accepted quote after the word holds again.
func (s State) unendorsed(who Subject) State {
	doubt := who.Terms.Enrolled.Doubt()
	if doubt == nil || len(who.Policies) == 0 || s.FailedByQuote() {
		return s
	}
	s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, false, []attest.Failure{*doubt}, nil
	return s
}
