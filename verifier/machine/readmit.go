package machine

import (
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// Approve is the act of a person who lets a machine back in that failed in an earlier boot.
const Approve Act = "approve"

// ErrNothingToApprove says that no readmission waits.
var ErrNothingToApprove = errors.New("no readmission waits for approval")

// Approvable refuses an approval that nothing waits for.
func (s State) Approvable() error {
	if s.Readmission == nil {
		return fmt.Errorf("%w: the verdict is %s", ErrNothingToApprove, s.Verdict)
	}
	return nil
}

// approved has the whole evidence of the boot that waits judged once more, without what was found in the earlier one.
func (s State) approved() State {
	if s.Readmission != nil {
		s.Approved, s.Rejudge = s.Readmission.Boot, true
	}
	return s
}

// judged moves the verdict as decide does. Where the terms want a person's approval, a machine that failed does not come back by a new boot
// alone: it stays Failed with the old reasons, and a readmission waits. Neither does it come back by a change of policies meanwhile, which
// would be a way around the person: also not where it failed again in the new boot, and the change explains only that.
func (s State) judged(t Terms, j judgement, now time.Time) State {
	before := s
	waits := s.Readmission != nil && s.Readmission.Boot == j.boot
	if waits && j.whole && (s.Approved == j.boot || t.Readmits) {
		s.Verdict, s.QuoteBacked = attest.Pending, false // what was found before counts no longer; this boot is judged for itself
	}
	approved := waits && j.whole && s.Approved == j.boot
	s = s.decide(j)
	s.Readmission, s.Approved, s.Unapproved = nil, "", false
	owed := !t.Readmits && before.FailedByQuote() && !before.Reattest && (j.newBoot || waits || before.Unapproved)
	if !owed || approved && !s.FailedByQuote() {
		return s
	}
	s.Unapproved = true
	switch {
	case s.FailedByQuote() && waits && len(j.failures) == 0:
		s.Readmission, s.Approved = before.Readmission, before.Approved // a round that said nothing new
	case !s.FailedByQuote():
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = before.Verdict, true, before.Failures, before.Policies
		if s.Readmission = before.Readmission; !waits {
			s.Readmission = &api.Readmission{Boot: j.boot, At: now}
		}
	}
	return s
}
