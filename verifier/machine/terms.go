package machine

import "github.com/assay-project/assay/attest"

// Terms are what an assignment asks of the machine beside the documents.
type Terms struct {
	// Approval: a person lets a machine back in that failed in an earlier boot.
	Approval bool
	// Unendorsed says why the assignment does not take the word of who endorsed the TPM; nil where it does.
	Unendorsed *attest.Failure
	// Distrusted says why the word that the node was enrolled by does not hold any more; nil where it does. It is found out for each answer.
	Distrusted *attest.Failure
	// RefusedIMAPolicies count as approved by no document.
	RefusedIMAPolicies []attest.Digest
}

// unendorsed lets no verdict but a Failed that a quote proves stand where the word that the node was enrolled by does not hold. It is of class
// Unauthenticated, like an answer of which nobody knows whose it is, and ends with the next accepted quote after the word holds again.
func (s State) unendorsed(who Subject) State {
	if who.Terms.Distrusted == nil || len(who.Policies) == 0 || s.FailedByQuote() {
		return s
	}
	s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, false, []attest.Failure{*who.Terms.Distrusted}, nil
	return s
}
