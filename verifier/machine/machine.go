package machine

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
)

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
	if s.FailedByQuote() {
		return s
	}
	if s.Verdict != attest.Failed {
		s = s.flapped(now)
	}
	s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Failed, false, j.failures, nil
	return s
}

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
	failed := s.FailedByQuote()
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
		s.Rejudge = s.FailedByQuote() // by an AK that was replaced: the first whole evidence of the new one decides
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

// unite appends those of more that are other reasons than those of have. Where that is too many, each kind keeps one.
func unite(have, more []attest.Failure) []attest.Failure {
	var all attest.Result
	all.Add(have...)
	for _, f := range more {
		known := slices.ContainsFunc(have, func(h attest.Failure) bool { return sameReason(h, f) })
		if !known {
			all.Add(f)
		}
	}
	return all.Failures
}

func sameReason(a, b attest.Failure) bool {
	return a.ID == b.ID && a.Path == b.Path && a.Seen == b.Seen && a.Policy == b.Policy
}
