package attest

import "slices"

// Verdict is what Assay says of an agent. The word that is read is a function of the stored state and the time.
type Verdict string

const (
	// Trusted: the last accepted quote is recent enough and all evidence of this boot passed every policy that applies.
	Trusted Verdict = "Trusted"
	// Failed: a check failed. It stays so until a new boot, a policy change or a person's act leads out of it.
	Failed Verdict = "Failed"
	// Stale: no quote-backed evidence within its time.
	Stale Verdict = "Stale"
	// Pending: enrolled, not yet appraised.
	Pending Verdict = "Pending"
	// Unappraised: evidence is collected but no policy applies. It is never shown as trusted.
	Unappraised Verdict = "Unappraised"
	// Paused: a person stopped the rounds through the API.
	Paused Verdict = "Paused"
)

// Verdicts returns all verdicts, for tables and schemas.
func Verdicts() []Verdict { return []Verdict{Trusted, Failed, Stale, Pending, Unappraised, Paused} }

// Failure is one check that did not pass. It is a value and not an error: an error says that a check could not be made.
// Every string in it may come from an attacker; whoever prints it escapes it.
type Failure struct {
	ID       FailureID `json:"id"`
	Severity Severity  `json:"severity"`
	// Detail is a sentence for people, with the offending values.
	Detail string `json:"detail"`
	// Path is the measured name that the failure is about, as the kernel recorded it.
	Path string `json:"path,omitempty"`
	// Seen is the digest or value in the evidence, Allowed what the policy would have accepted (at most MaxAllowed of them).
	Seen    string   `json:"seen,omitempty"`
	Allowed []string `json:"allowed,omitempty"`
	// Policy is the name of the policy document that was applied.
	Policy string `json:"policy,omitempty"`
	// Entry is the absolute position in the measurement list, counted from 0 at boot, when the failure is about an entry.
	Entry *uint64 `json:"entry,omitempty"`
}

// MaxAllowed bounds Failure.Allowed.
const MaxAllowed = 16

// MaxFailures bounds the failures that a Result holds; Result.Suppressed counts the rest.
const MaxFailures = 100

// Fail makes a failure with the severity of the table.
func Fail(id FailureID, detail string) Failure {
	return Failure{ID: id, Severity: id.Info().Severity, Detail: detail}
}

// PolicyRef names a policy document by its name and the digest of its bytes.
type PolicyRef struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Digest Digest `json:"digest"`
}

// Result is the outcome of appraising one piece of verified evidence. The zero value is not a pass: Appraised is false.
type Result struct {
	// Appraised is set by appraisal alone, when every check was made.
	Appraised bool `json:"appraised"`
	// Policies are the documents that were applied; none of them means Unappraised.
	Policies   []PolicyRef `json:"policies"`
	Failures   []Failure   `json:"failures,omitempty"`
	Suppressed int         `json:"suppressed,omitempty"`
}

// Passed reports whether at least one policy was applied and nothing failed.
func (r Result) Passed() bool {
	return r.Appraised && len(r.Policies) > 0 && len(r.Failures) == 0 && r.Suppressed == 0
}

// Add appends failures up to MaxFailures and counts the rest. No kind of them is lost by that: the first of its ID takes the place of one of
// whose ID there are more.
func (r *Result) Add(failures ...Failure) {
	for _, f := range failures {
		if len(r.Failures) < MaxFailures {
			r.Failures = append(r.Failures, f)
			continue
		}
		r.Suppressed++
		if !r.Has(f.ID) {
			r.displace(f)
		}
	}
}

// Has reports whether there is a failure of an ID.
func (r *Result) Has(id FailureID) bool {
	return slices.ContainsFunc(r.Failures, func(f Failure) bool { return f.ID == id })
}

// displace puts f at the end, in place of the last failure that is not the first of its ID. There are fewer IDs than MaxFailures.
func (r *Result) displace(f Failure) {
	for i, old := range slices.Backward(r.Failures) {
		if first := slices.IndexFunc(r.Failures, func(o Failure) bool { return o.ID == old.ID }); first < i {
			r.Failures = append(slices.Delete(slices.Clone(r.Failures), i, i+1), f)
			return
		}
	}
}
