package machine

import (
	"time"

	"github.com/assay-project/assay/attest"
)

// A node may answer well and badly in turn: the machine itself, or somebody who answers at its address now and then. Each change is a row that is kept
// for ever. So the first freeFlaps failures of class Unauthenticated in flapMemory end with the next accepted quote, and each further one only when no
// answer was refused for a time, which begins with firstHold, doubles, and is longestHold at the most. docs/adr/0004-alternating-answers.md has the reasons.
const (
	freeFlaps   = 8
	flapMemory  = 24 * time.Hour
	firstHold   = 2 * time.Minute
	longestHold = time.Hour
)

// flapped counts a failure of class Unauthenticated that begins.
func (s State) flapped(now time.Time) State {
	if age := now.Sub(s.FlappedAt); age < 0 || age >= flapMemory {
		s.Flaps = 0
	}
	s.Flaps++
	s.FlappedAt = now
	return s
}

// hold is how long answers have to be good before the present failure ends.
func (s State) hold() time.Duration {
	if s.Flaps <= freeFlaps {
		return 0
	}
	return min(firstHold<<min(s.Flaps-freeFlaps-1, 16), longestHold)
}

// held gives back the failure of before in place of a verdict that would end it too soon. A failure that a quote proves is shown at once, and a
// person's act counts at once.
func (s State) held(before State, now time.Time) State {
	if before.Verdict != attest.Failed || before.QuoteBacked || s.Verdict == attest.Failed {
		return s
	}
	if before.Reattest {
		s.Flaps = 0
		return s
	}
	if quiet := now.Sub(s.LastRefused); quiet < 0 || quiet >= s.hold() {
		return s
	}
	s.Verdict, s.QuoteBacked, s.Failures, s.Policies = before.Verdict, before.QuoteBacked, before.Failures, before.Policies
	return s
}
