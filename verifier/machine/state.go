package machine

import (
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/quote"
	"github.com/assay-project/assay/policy"
)

// State is where the machine of one node stands. Its zero value is that of a node that was just enrolled.
// Fields of the boot are meaningful only with a Boot that is not empty.
type State struct {
	// Verdict is the judgement of evidence: Pending, Trusted, Failed or Unappraised. Stale and Paused are read, not stored; see Read.
	Verdict attest.Verdict `json:"verdict"`
	// Shown is what Read gave when the last transition was recorded, Since when that was.
	Shown attest.Verdict `json:"shown"`
	Since time.Time      `json:"since"`
	// Seq is the number of transitions recorded so far.
	Seq uint64 `json:"seq"`
	// Failures are the reasons of a Failed verdict. QuoteBacked says that a verified quote stands behind them:
	// such a verdict is not displaced by silence or by answers that do not verify.
	Failures    []attest.Failure `json:"failures,omitempty"`
	QuoteBacked bool             `json:"quoteBacked,omitempty"`
	// Policies are the documents that the verdict was made with.
	Policies []attest.PolicyRef `json:"policies,omitempty"`
	Paused   bool               `json:"paused,omitempty"`
	// Reattest: a person asked that everything be judged again; the next accepted evidence decides alone.
	Reattest bool `json:"reattest,omitempty"`
	// Readmission waits for a person's approval; Approved is the boot that a person let back in, until its evidence is judged.
	Readmission *api.Readmission `json:"readmission,omitempty"`
	Approved    string           `json:"approved,omitempty"`
	// Unapproved: the machine failed in an earlier boot than this one, and the person that the terms want has not let it back in.
	Unapproved bool `json:"unapproved,omitempty"`

	// Boot names this boot of the machine, Clock is the last accepted clock.
	Boot      string       `json:"boot,omitempty"`
	BootSince time.Time    `json:"bootSince,omitzero"`
	Clock     *quote.Clock `json:"clock,omitempty"`
	// IMA is how far the measurement list is proven, ListBytes how long it is so far, Progress what appraisal carries along with it.
	IMA       ima.State          `json:"ima"`
	ListBytes uint64             `json:"listBytes,omitempty"`
	Progress  appraisal.Progress `json:"progress"`
	// TransportKey is the PEM key that PCR 16 bound in this boot; BootLog the digest of the stored event log.
	TransportKey string        `json:"transportKey,omitempty"`
	BootLog      attest.Digest `json:"bootLog"`

	// Comparable: the AK that showed Clock is a child of the EK, so that Clock holds the TPM's own counters.
	Comparable bool `json:"comparable,omitempty"`
	// Replaced: another AK of the same TPM was taken, and no quote of it is accepted yet. Before is the last accepted clock of the AKs
	// before it, if that was comparable.
	Replaced bool         `json:"replaced,omitempty"`
	Before   *quote.Clock `json:"before,omitempty"`

	// Enrolled is when the machine started: the reference for Stale before the first accepted quote, of whatever AK.
	Enrolled     time.Time `json:"enrolled"`
	LastAccepted time.Time `json:"lastAccepted,omitzero"`
	LastTried    time.Time `json:"lastTried,omitzero"`
	Accepted     uint64    `json:"accepted"`
	Refused      uint64    `json:"refused"`
	// Flaps counts the failures without a quote that began within a day, FlappedAt is when the last of them did, LastRefused when an answer was last refused.
	Flaps       int       `json:"flaps,omitempty"`
	FlappedAt   time.Time `json:"flappedAt,omitzero"`
	LastRefused time.Time `json:"lastRefused,omitzero"`
	// Silence counts the rounds without an answer since the last answer, Trouble is why the last round was not accepted.
	Silence int             `json:"silence,omitempty"`
	Trouble *attest.Failure `json:"trouble,omitempty"`
	// Again makes the next round ask from the start of the list, with the transport key.
	Again bool `json:"again,omitempty"`
	// Rejudge: the policies changed, and the stored evidence was not enough to judge by them. The next accepted evidence, from the
	// start of the list, decides in its place.
	Rejudge bool `json:"rejudge,omitempty"`

	// Cordoned: the Kubernetes node is unschedulable, as the operator says. Muted: the mute that counts from MutedFrom on belongs to this
	// cordon. MutedFrom outlives the cordon, so that a node does not get another mute by another cordon.
	Cordoned  bool      `json:"cordoned,omitempty"`
	Muted     bool      `json:"muted,omitempty"`
	MutedFrom time.Time `json:"mutedFrom,omitzero"`
}

// Subject is what the machine needs to know of its node beside the state.
type Subject struct {
	AK endorsement.AK
	// Child is the qualified name that the AK has as a child of the enrolled EK; nil where that is not known.
	Child    []byte
	Policies []*policy.Document
	Interval time.Duration
	Terms    Terms
}

// staleIntervals and staleLeast say how long a verdict stands without accepted evidence (C11).
const (
	staleIntervals = 5
	staleLeast     = 2 * time.Minute
)

// clockSkew is by how much an accepted quote may seem to lie in the future: replicas, and a clock that is corrected a little.
const clockSkew = time.Minute

// StaleAfter returns how long a verdict stands without accepted evidence.
func StaleAfter(interval time.Duration) time.Duration {
	return max(staleIntervals*interval, staleLeast)
}

// Read returns the verdict that people see: a function of the stored state and the time (C3). A quote-backed Failed is never hidden by
// silence, and no Failed by a mute.
func (s State) Read(now time.Time, interval time.Duration) attest.Verdict {
	verdict := s.Verdict
	if verdict == "" {
		verdict = attest.Pending
	}
	fresh := s.LastAccepted
	if fresh.IsZero() {
		fresh = s.Enrolled
	}
	switch {
	case verdict == attest.Failed && s.QuoteBacked:
		return attest.Failed
	case s.Paused:
		return attest.Paused
	case verdict == attest.Failed:
		return attest.Failed
	case now.Sub(fresh) > StaleAfter(interval) && !s.muted(now):
		return attest.Stale
	case fresh.Sub(now) > clockSkew: // the clock was set back: how old the evidence is, nobody knows, and a verdict would stand until then
		return attest.Stale
	}
	return verdict
}

// FailedByQuote reports whether a verified quote stands behind a Failed.
func (s State) FailedByQuote() bool { return s.Verdict == attest.Failed && s.QuoteBacked }

// SilentFor returns since when there was no accepted evidence, of a node whose verdict is Stale or Failed of class Unauthenticated; else 0.
func (s State) SilentFor(now time.Time, interval time.Duration) time.Duration {
	verdict := s.Read(now, interval)
	if verdict != attest.Stale && (verdict != attest.Failed || s.QuoteBacked) {
		return 0
	}
	if verdict == attest.Failed && s.Trouble == nil {
		return 0 // its last round was accepted: what fails is not its answers, but the word that it was enrolled by
	}
	if s.LastAccepted.IsZero() {
		return now.Sub(s.Enrolled)
	}
	return now.Sub(s.LastAccepted)
}

// KeylimeState maps what people read to Keylime's operational states (reference 3.9). Its clients take 3 for good, so that only a
// Trusted node is ever shown as that.
func (s State) KeylimeState(now time.Time, interval time.Duration) int {
	switch s.Read(now, interval) {
	case attest.Trusted:
		if s.Silence > 0 {
			return 4 // GET_QUOTE_RETRY
		}
		return 3 // GET_QUOTE
	case attest.Failed:
		return 9 // INVALID_QUOTE
	case attest.Stale:
		return 7 // FAILED: communication
	case attest.Paused:
		return 10 // TENANT_FAILED: stopped by a person
	case attest.Unappraised:
		return 2 // SAVED
	}
	return 1 // START
}
