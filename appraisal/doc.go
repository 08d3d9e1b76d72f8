// Package appraisal compares verified evidence with policy documents and returns every failure.
//
// It takes only what the TPM vouches for: a quote.Verified, and lists and logs that were replayed to it; their zero values are the failure
// EvidenceUnverified, and a policy without its evidence is EvidenceMissing. It has no memory: what a later round of the same boot has to know is
// in Progress, which the caller keeps with the replay's state, and drops together with it.
//
// Several Runtime documents are one policy: an entry passes if any of them approves it, so that a base document can have a delta beside
// it; the values of several Pcr documents are united likewise. Which documents apply, and that a change of them appraises the whole list
// again, is left to the verifier. So is everything about time, nonces and boots.
package appraisal
