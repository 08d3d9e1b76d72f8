package verifier

import (
	"slices"
	"time"

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

	// Boot names this boot of the machine, Clock is the last accepted clock.
	Boot      string       `json:"boot,omitempty"`
	BootSince time.Time    `json:"bootSince,omitzero"`
	Clock     *quote.Clock `json:"clock,omitempty"`
	// IMA is how far the measurement list is proven, Progress what appraisal carries along with it.
	IMA      ima.State          `json:"ima"`
	Progress appraisal.Progress `json:"progress"`
	// TransportKey is the PEM key that PCR 16 bound in this boot; BootLog the digest of the stored event log.
	TransportKey string        `json:"transportKey,omitempty"`
	BootLog      attest.Digest `json:"bootLog"`

	// Enrolled is when the machine started, the reference for Stale before the first round.
	Enrolled     time.Time `json:"enrolled"`
	LastAccepted time.Time `json:"lastAccepted,omitzero"`
	LastTried    time.Time `json:"lastTried,omitzero"`
	Accepted     uint64    `json:"accepted"`
	Refused      uint64    `json:"refused"`
	// Silence counts the rounds without an answer since the last answer, Trouble is why the last round was not accepted.
	Silence int             `json:"silence,omitempty"`
	Trouble *attest.Failure `json:"trouble,omitempty"`
	// Again makes the next round ask from the start of the list, with the transport key.
	Again bool `json:"again,omitempty"`
}

// Subject is what the machine needs to know of its node beside the state.
type Subject struct {
	AK       endorsement.AK
	Policies []*policy.Document
	Interval time.Duration
}

// staleIntervals and staleLeast say how long a verdict stands without accepted evidence (C11).
const (
	staleIntervals = 5
	staleLeast     = 2 * time.Minute
)

// StaleAfter returns how long a verdict stands without accepted evidence.
func StaleAfter(interval time.Duration) time.Duration {
	return max(staleIntervals*interval, staleLeast)
}

// Read returns the verdict that people see: a function of the stored state and the time (C3). A quote-backed Failed is never hidden by silence.
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
	case now.Sub(fresh) > StaleAfter(interval):
		return attest.Stale
	}
	return verdict
}

// Event is what happens to a node: one of Due, Answered, Unanswered, PoliciesChanged, Asked.
type Event interface{ at() time.Time }

// Due: it is time for a round. Nonce is fresh and random, 20 letters and digits.
type Due struct {
	Now   time.Time
	Nonce string
}

// Answered: the agent answered a round. Nothing in the answer is verified yet. Malformed says why the answer could not
// even be parsed; then Answer is empty.
type Answered struct {
	Now       time.Time
	Request   Request
	Answer    Answer
	Malformed string
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
	var actions []Action
	cause := "round"
	if s.Enrolled.IsZero() {
		s.Enrolled, s.Since, s.Shown, s.Verdict = event.at(), event.at(), attest.Pending, attest.Pending
	}
	switch e := event.(type) {
	case Due:
		s, actions = s.due(who, e)
	case Unanswered:
		s, actions = s.unanswered(who, e)
	case Answered:
		s, actions, cause = s.answered(who, e)
	case PoliciesChanged:
		cause = "policy"
		s, actions = s.policiesChanged(who, e)
	case Asked:
		cause = string(e.Act)
		s, actions = s.asked(e)
	}
	return s.record(who, event.at(), cause, actions)
}

// record appends a transition when the verdict that is read, or its reasons, are not those that were shown last.
func (s State) record(who Subject, now time.Time, cause string, actions []Action) (State, []Action) {
	shown := s.Read(now, who.Interval)
	reasons := slices.ContainsFunc(actions, func(a Action) bool { _, ok := a.(newReasons); return ok })
	actions = slices.DeleteFunc(actions, func(a Action) bool { _, ok := a.(newReasons); return ok })
	if shown == s.Shown && !reasons {
		return s, actions
	}
	s.Seq++
	t := Transition{Seq: s.Seq, At: now, From: s.Shown, To: shown, Boot: s.Boot, Policies: s.Policies, Failures: s.Failures, Cause: cause}
	if shown != s.Shown {
		s.Since = now
	}
	s.Shown = shown
	for _, a := range actions {
		if keep, ok := a.(Keep); ok && keep.Quote != nil {
			t.Quote = keep.Quote.Digest
		}
	}
	return s, append(actions, Record{Transition: t})
}

// newReasons marks, inside one step, that a Failed verdict got further reasons.
type newReasons struct{}

func (newReasons) action() {}

func (s State) due(who Subject, e Due) (State, []Action) {
	if s.Paused {
		return s, nil
	}
	s.LastTried = e.Now
	request := Request{
		Nonce:     e.Nonce,
		Selection: appraisal.Needs(who.Policies),
		Offset:    s.IMA.Position,
		Full:      s.TransportKey == "",
	}
	if s.Again || s.Reattest {
		request.Offset, request.Full = 0, true
	}
	return s, []Action{Collect{Request: request}}
}

// firstRetry is the pause after the first silent round; each further one doubles it, up to the interval that staleness allows.
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
	}
	return s, []Action{Schedule{}}
}

// answered judges an answer and moves the verdict.
func (s State) answered(who Subject, e Answered) (State, []Action, string) {
	s.Silence = 0
	cause := "round"
	j := judge(s, who, e)
	switch {
	case j.again:
		s.Again = true
		return s, []Action{Schedule{}}, cause
	case !j.accepted:
		s.Refused++
		s.Trouble = &j.failures[0]
		s = s.refuse(j)
		return s, []Action{Schedule{After: who.Interval}}, cause
	}
	if j.newBoot && s.Boot != "" {
		cause = "reboot"
	}
	if s.Reattest {
		cause = string(Reattest)
	}
	actions := []Action{Schedule{After: who.Interval}, j.keep}
	s.Accepted++
	s.Again, s.Trouble, s.LastAccepted = false, nil, e.Now
	s = s.advance(j, e.Now)
	before := s.Failures
	s = s.decide(j)
	if len(s.Failures) > len(before) && s.Shown == attest.Failed {
		actions = append(actions, newReasons{})
	}
	return s, actions, cause
}

// refuse sets Failed of class Unauthenticated, which never displaces a quote-backed Failed.
func (s State) refuse(j judgement) State {
	if s.Verdict == attest.Failed && s.QuoteBacked {
		return s
	}
	s.Verdict, s.QuoteBacked, s.Failures = attest.Failed, false, j.failures
	return s
}

// advance takes over what accepted evidence proved of the boot, whatever the verdict.
func (s State) advance(j judgement, now time.Time) State {
	if j.newBoot {
		s.Boot, s.BootSince, s.BootLog = j.boot, now, attest.Digest{}
		s.IMA, s.Progress, s.TransportKey = ima.State{}, appraisal.Progress{}, ""
	}
	if j.clock != nil {
		s.Clock = j.clock
	}
	s.IMA, s.Progress = j.ima, j.progress
	if j.transportKey != "" {
		s.TransportKey = j.transportKey
	}
	if !j.bootLog.IsZero() {
		s.BootLog = j.bootLog
	}
	return s
}

// decide moves the verdict by accepted evidence. Out of a quote-backed Failed lead only a new boot whose whole evidence passes
// and a person's reattest; policiesChanged has the third way.
func (s State) decide(j judgement) State {
	sticky := s.Verdict == attest.Failed && s.QuoteBacked && !j.newBoot && !s.Reattest
	s.Reattest = false
	switch {
	case len(j.failures) > 0 && sticky:
		s.Failures = unite(s.Failures, j.failures)
	case len(j.failures) > 0:
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, true, j.failures, j.result.Policies
	case sticky:
	case j.result.Passed():
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Trusted, false, nil, j.result.Policies
	default:
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Unappraised, false, nil, nil
	}
	return s
}

func (s State) policiesChanged(who Subject, e PoliciesChanged) (State, []Action) {
	if e.Stored == nil || s.Boot == "" {
		return s, []Action{Schedule{}}
	}
	j := e.Stored.judge(s, who)
	switch {
	case !j.accepted:
		// The stored evidence cannot be judged (it is incomplete): the next round judges the whole list.
		s.Again = true
		return s, []Action{Schedule{}}
	case len(j.failures) > 0:
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, true, j.failures, j.result.Policies
	case j.result.Passed():
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Trusted, false, nil, j.result.Policies
	case s.Verdict == attest.Failed && s.QuoteBacked:
		// Without a policy nothing passes, so nothing leads out of Failed.
	default:
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Unappraised, false, nil, nil
	}
	s.Progress = j.progress
	return s, []Action{newReasons{}, Schedule{}}
}

// unite appends those of more that say something new.
func unite(have, more []attest.Failure) []attest.Failure {
	have = slices.Clip(have)
	for _, f := range more {
		known := slices.ContainsFunc(have, func(h attest.Failure) bool {
			return h.ID == f.ID && h.Path == f.Path && h.Seen == f.Seen && h.Policy == f.Policy
		})
		if !known && len(have) < attest.MaxFailures {
			have = append(have, f)
		}
	}
	return have
}

// KeylimeState maps the machine to Keylime's operational states (reference 3.9).
func (s State) KeylimeState() int {
	switch {
	case s.Paused:
		return 10 // TENANT_FAILED: stopped by a person
	case s.Verdict == attest.Failed:
		return 9 // INVALID_QUOTE
	case s.Silence > 0:
		return 4 // GET_QUOTE_RETRY
	case s.Accepted == 0:
		return 1 // START
	}
	return 3 // GET_QUOTE
}

// selectionOf is the selection that stored evidence was asked with.
func selectionOf(q StoredQuote) pcr.Selection { return pcr.Selection{Bank: q.Bank, Mask: q.Mask} }
