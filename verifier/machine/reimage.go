package machine

import (
	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/evidence/ima"
	"github.com/assay-project/assay/evidence/quote"
)

// reimaged starts over with another AK of the same TPM: nothing that the old one proved is carried along, and everything is judged from
// the start of the list.
//
// It is no way out of a Failed behind which a quote stands, or whoever owns a machine would make a new AK instead of rebooting. Such a
// verdict stays with its reasons until one of the ways of State.decide is open. For the way by a new boot, the first quote of the new AK
// has to show a higher reset counter than the last one of the old AK. That says something only where both AKs are proven to be children
// of the EK: the counters of a key of the owner's hierarchy have an offset that depends on the key, so that one only makes keys until it
// fits (TPM 2.0 Part 1, "Attestation Data"). A quote names its signer with the whole way from its hierarchy, which is the proof. Where it is
// missing, and after TPM2_Clear, which sets the counters to zero, the next boot of the new AK or a person's reattest is needed.
func (s State) reimaged() (State, []Action) {
	if s.Clock != nil {
		s.Before = nil
		if s.Comparable {
			s.Before = s.Clock
		}
	}
	s.Replaced, s.Clock, s.Comparable = true, nil, false
	s.IMA, s.ListBytes, s.Progress, s.BootLog = ima.State{}, 0, appraisal.Progress{}, attest.Digest{}
	s.Boot, s.TransportKey = "", ""
	s.Again, s.Rejudge, s.Silence, s.Trouble = false, s.Rejudge && s.FailedByQuote(), 0, nil
	if !s.FailedByQuote() {
		// Stale goes on being counted from the last accepted quote: a machine that takes new keys without end is silent.
		s.Verdict, s.QuoteBacked, s.Failures, s.Policies = attest.Pending, false, nil, nil
	}
	return s, []Action{Schedule{}}
}

// bootedSince reports whether the first quote of a new AK shows a later boot than the last one of the old AK. A restart does not count:
// what tells it from a resume is the list of the old AK's boot.
func (s State) bootedSince(now quote.Clock) bool {
	if s.Before == nil {
		return false
	}
	continuity, ok := now.Since(*s.Before)
	return ok && continuity == quote.NewBoot
}
