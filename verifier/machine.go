package verifier

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/pcr"
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

// Event is what happens to a node: one of Due, Answered, Unanswered, PoliciesChanged, Asked, Moved, Reimaged, Cordoned.
type Event interface{ at() time.Time }

// Due: it is time for a round. Nonce is fresh and random, 20 letters and digits.
type Due struct {
	Now   time.Time
	Nonce string
}

// Answered: the agent answered a round. Nothing in the answer is verified yet. Malformed says why the answer could not
// even be parsed, Foreign that somebody else answered, who does not hold the TLS key that the registrar has of the agent now; then Answer is empty.
type Answered struct {
	Now       time.Time
	Request   Request
	Answer    Answer
	Malformed string
	Foreign   string
}

// Unanswered: no answer, a broken connection, a status of 500 and up.
type Unanswered struct {
	Now    time.Time
	Reason string
}

// PoliciesChanged: other documents apply now. Stored is the whole evidence of this boot, nil when there is none.
type PoliciesChanged struct {
	Now    time.Time
	Stored *Stored
}

// Asked: a person asked for something.
type Asked struct {
	Now time.Time
	Act Act
}

// Moved: the agent registered another address, port or TLS certificate. It is no evidence and moves no verdict.
type Moved struct{ Now time.Time }

// Reimaged: another AK of the same TPM is enrolled from now on. Old and New are the names of the two.
type Reimaged struct {
	Now      time.Time
	Old, New []byte
}

// Act is a person's act on a node.
type Act string

// The acts: stop the rounds, go on with them, judge everything again from the start of the list.
const (
	Pause    Act = "pause"
	Resume   Act = "resume"
	Reattest Act = "reattest"
)

func (e Due) at() time.Time             { return e.Now }
func (e Answered) at() time.Time        { return e.Now }
func (e Unanswered) at() time.Time      { return e.Now }
func (e PoliciesChanged) at() time.Time { return e.Now }
func (e Asked) at() time.Time           { return e.Now }
func (e Moved) at() time.Time           { return e.Now }
func (e Reimaged) at() time.Time        { return e.Now }

// Action is what the driver does after a step: one of Collect, Schedule, Keep, Record.
type Action interface{ action() }

// Collect asks the agent for evidence.
type Collect struct{ Request Request }

// Schedule sets the node's only timer. The driver adds jitter.
type Schedule struct{ After time.Duration }

// Keep hands accepted evidence to the store; it may wait for the next batch.
type Keep struct {
	Quote   *StoredQuote
	Chunk   *Chunk
	BootLog []byte
}

// Record makes a transition durable, at once and with all that was kept before.
type Record struct{ Transition Transition }

func (Collect) action()  {}
func (Schedule) action() {}
func (Keep) action()     {}
func (Record) action()   {}

// Step is the verifier's whole view of a node: pure, without I/O and clock. It never fails; what is wrong is a verdict.
func Step(s State, who Subject, event Event) (State, []Action) {
	if s.Enrolled.IsZero() {
		s.Enrolled, s.Since, s.Shown, s.Verdict = event.at(), event.at(), attest.Pending, attest.Pending
	}
	before := s
	var actions []Action
	cause, detail := "round", ""
	switch e := event.(type) {
	case Due:
		// Nothing was learned yet: a verifier that was away for a while asks before it calls a node Stale.
		return s.due(who, e)
	case Unanswered:
		s, actions = s.unanswered(who, e)
	case Answered:
		s, actions, cause = s.answered(who, e)
	case PoliciesChanged:
		s, actions = s.policiesChanged(who, e)
		cause = "policy"
	case Asked:
		s, actions = s.asked(e)
		cause = string(e.Act)
	case Moved:
		actions, cause = []Action{Schedule{}}, "moved"
	case Cordoned:
		s, actions = s.cordoned(who, e)
		if cause = causeUncordon; e.On {
			cause = causeCordon
		}
	case Reimaged:
		s, actions = s.reimaged()
		cause, detail = causeReimage, fmt.Sprintf("attestation key %x gave way to %x", e.Old, e.New)
	}
	return s.record(before, who, transitionOf{now: event.at(), cause: cause, detail: detail}, actions)
}

// transitionOf is what a transition says beside the state.
type transitionOf struct {
	now           time.Time
	cause, detail string
}

// Causes of transitions: that of the one that tells of another AK, and those of mutes that end or begin.
const (
	causeReimage  = "reimage"
	causeCordon   = "cordon"
	causeUncordon = "uncordon"
)

// record appends a transition when the verdict that is read, its reasons or its policies are not those of before.
func (s State) record(before State, who Subject, t transitionOf, actions []Action) (State, []Action) {
	shown := s.Read(t.now, who.Interval)
	if shown == s.Shown && !s.saysMore(before, t.cause) {
		return s, actions
	}
	s.Seq++
	row := Transition{Seq: s.Seq, At: t.now, From: s.Shown, To: shown, Boot: s.Boot, Policies: s.Policies, Failures: s.Failures, Cause: t.cause, Detail: t.detail}
	if shown != s.Shown {
		s.Since = t.now
	}
	s.Shown = shown
	for _, a := range actions {
		if keep, ok := a.(Keep); ok && keep.Quote != nil {
			row.Quote = keep.Quote.Digest
		}
	}
	return s, append(actions, Record{Transition: row})
}

// saysMore reports whether the same verdict deserves a row of its own: it was made with other policies, or a quote stands behind other
// reasons. Reasons without a quote do not count, or whoever answers at the agent's address could fill the store.
func (s State) saysMore(before State, cause string) bool {
	if cause == causeReimage {
		return true
	}
	if cause == "policy" && !slices.Equal(s.Policies, before.Policies) {
		return true
	}
	if s.Verdict != attest.Failed || !s.QuoteBacked {
		return false
	}
	return !before.QuoteBacked || s.Boot != before.Boot || !slices.EqualFunc(s.Failures, before.Failures, sameReason)
}

// due starts a round. With newlines in proven names the position would be ambiguous (Keylime's agents count lines, ours entries), so
// the list is asked for from its start then.
func (s State) due(who Subject, e Due) (State, []Action) {
	if s.Paused {
		return s, nil
	}
	s.LastTried = e.Now
	request := Request{Nonce: e.Nonce, Selection: appraisal.Needs(who.Policies), Offset: s.IMA.Position, Full: s.TransportKey == ""}
	if s.whole() {
		request.Offset, request.Full = 0, true
	}
	if s.IMA.Newlines > 0 {
		request.Offset = 0
	}
	return s, []Action{Collect{Request: request}}
}

// whole reports whether the next evidence is to be judged from the start of the list.
func (s State) whole() bool { return s.Again || s.Rejudge || s.Reattest }

// firstRetry is the pause after the first silent round; each further one doubles it, up to the node's interval.
const firstRetry = time.Second

func (s State) unanswered(who Subject, e Unanswered) (State, []Action) {
	s.Silence++
	trouble := attest.Fail(attest.Unreachable, e.Reason)
	s.Trouble = &trouble
	pause := firstRetry << min(s.Silence-1, 16)
	return s, []Action{Schedule{After: min(pause, max(who.Interval, firstRetry))}}
}

func (s State) asked(e Asked) (State, []Action) {
	switch e.Act {
	case Pause:
		s.Paused = true
		return s, nil
	case Resume:
		s.Paused = false
	case Reattest:
		s.Reattest = true
	case Approve:
		s = s.approved()
	}
	return s, []Action{Schedule{}}
}

// answered judges an answer and moves the verdict.
func (s State) answered(who Subject, e Answered) (State, []Action, string) {
	s.Silence = 0
	j := judge(s, who, e)
	if j.again {
		s.Again = true
		return s, []Action{Schedule{}}, "round"
	}
	actions := []Action{Schedule{After: who.Interval}}
	if !j.accepted {
		s.Refused++
		s.Trouble = &j.failures[0]
		s.LastRefused = e.Now
		if j.keep.Quote == nil {
			return s.refuse(j, e.Now), actions, "round"
		}
		return s.judged(who.Terms, j, e.Now), append(actions, j.keep), "round"
	}
	cause := "round"
	switch {
	case s.Reattest:
		cause = string(Reattest)
	case s.Approved != "":
		cause = string(Approve)
	case s.Rejudge:
		cause = "policy"
	case s.Boot != "" && j.boot != s.Boot:
		cause = "reboot"
	}
	s.Accepted++
	// A list that does not lead to the quote is asked for from its start: a whole one may tell why.
	s.Again, s.Trouble, s.LastAccepted = j.listBroken, nil, e.Now
	before := s
	s = s.advance(j, e.Now).judged(who.Terms, j, e.Now).held(before, e.Now)
	s.Reattest, s.Rejudge = false, false
	return s.unendorsed(who), append(actions, j.keep), cause
}

// refuse sets Failed of class Unauthenticated, which never displaces a quote-backed Failed.
func (s State) refuse(j judgement, now time.Time) State {
	if s.failedByQuote() {
		return s
	}
	if s.Verdict != attest.Failed {
		s = s.flapped(now)
	}
	s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, false, j.failures, nil
	return s
}

func (s State) failedByQuote() bool { return s.Verdict == attest.Failed && s.QuoteBacked }

// advance takes over what accepted evidence proved of the boot, whatever the verdict.
func (s State) advance(j judgement, now time.Time) State {
	if j.boot != s.Boot {
		s.Boot, s.BootSince = j.boot, now
	}
	if j.newBoot {
		s.BootLog = attest.Digest{}
	}
	s.Clock, s.IMA, s.ListBytes, s.Progress, s.TransportKey = j.clock, j.ima, j.listBytes, j.progress, j.transportKey
	s.Comparable, s.Replaced, s.Before = j.comparable, false, nil
	if !j.bootLog.IsZero() {
		s.BootLog = j.bootLog
	}
	return s
}

// decide moves the verdict by evidence behind which a quote stands. Out of a quote-backed Failed lead only a new boot and new policies
// under which everything passes, and a person's reattest (C3).
func (s State) decide(j judgement) State {
	failed := s.failedByQuote()
	var stay []attest.Failure
	switch {
	case !failed || s.Reattest || j.newBoot && !j.perhapsSameBoot:
	case s.Rejudge && j.whole:
		stay = lasting(s.Failures)
	default:
		stay = s.Failures
	}
	failures := unite(stay, j.failures)
	switch {
	case len(failures) > 0:
		s.Verdict, s.QuoteBacked, s.Failures = attest.Failed, true, failures
		if len(stay) == 0 || j.result.Appraised {
			s.Policies = j.result.Policies
		}
	case j.result.Passed():
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Trusted, false, nil, j.result.Policies
	case failed && !s.Reattest:
		// Without a policy nothing passes, so nothing leads out of Failed.
	default:
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Unappraised, false, nil, nil
	}
	return s
}

// lasting returns those failures that no policy explains: the machine's evidence contradicted itself in this boot. What appraisal finds
// in stored evidence is not among them, because it finds it again.
func lasting(failures []attest.Failure) []attest.Failure {
	var stay []attest.Failure
	for _, f := range failures {
		if f.ID.Info().Class == attest.Integrity && f.ID != attest.BootAggregateMismatch && f.ID != attest.BufferDigestMismatch {
			stay = append(stay, f)
		}
	}
	return stay
}

// policiesChanged judges the whole stored evidence of this boot by the policies that hold now. Where that is not enough (they need PCRs
// that were not quoted), nothing stays Trusted by the old ones, and the next round decides.
func (s State) policiesChanged(who Subject, e PoliciesChanged) (State, []Action) {
	actions := []Action{Schedule{}}
	if s.Boot == "" {
		s.Rejudge = s.failedByQuote() // by an AK that was replaced: the first whole evidence of the new one decides
		return s, actions
	}
	s.Rejudge = true
	j, ok := judgement{}, false
	if e.Stored != nil {
		j, ok = e.Stored.judge(s, who)
	}
	switch {
	case !ok && s.Verdict != attest.Failed:
		s.Verdict, s.Policies = attest.Pending, nil
		return s, actions
	case !ok:
		return s, actions
	case s.Verdict == attest.Failed && !s.QuoteBacked && len(j.failures) == 0:
		// Somebody who is not the enrolled agent answered last. Only a quote ends that.
	default:
		asked := s.Reattest
		s.Reattest = false // it waits for new evidence
		s = s.judged(who.Terms, j, e.Now)
		s.Reattest = asked
		actions = append(actions, Keep{Quote: j.keep.Quote}) // it stands behind this transition too
	}
	s.Rejudge, s.Progress = false, j.progress
	return s, actions
}

// unite appends those of more that are reasons of another kind than have.
func unite(have, more []attest.Failure) []attest.Failure {
	all := slices.Clip(have)
	for _, f := range more {
		known := slices.ContainsFunc(have, func(h attest.Failure) bool { return sameReason(h, f) })
		if !known && len(all) < attest.MaxFailures {
			all = append(all, f)
		}
	}
	return all
}

func sameReason(a, b attest.Failure) bool {
	return a.ID == b.ID && a.Path == b.Path && a.Seen == b.Seen && a.Policy == b.Policy
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

// selectionOf is the selection that stored evidence was asked with.
func selectionOf(q StoredQuote) pcr.Selection { return pcr.Selection{Bank: q.Bank, Mask: q.Mask} }
