package quote_test

import (
	"testing"

	"github.com/assay-project/assay/evidence/quote"
)

// The rows are the trust model's rules, their borders, and what was seen on libtpms: an orderly reset, a power cut, and
// Shutdown(STATE) with Startup(CLEAR).
func TestSince(t *testing.T) {
	const minute, nvSave = 60_000, 1 << 22
	last := quote.Clock{Clock: 10_000_000, ResetCount: 7, RestartCount: 2, Safe: true}
	at := func(clock uint64, resets, restarts uint32, safe bool) quote.Clock {
		return quote.Clock{Clock: clock, ResetCount: resets, RestartCount: restarts, Safe: safe}
	}
	tests := map[string]struct {
		last, now quote.Clock
		want      quote.Continuity
	}{
		"later":                             {last, at(last.Clock+minute, 7, 2, true), quote.SameBoot},
		"the same millisecond":              {last, last, quote.SameBoot},
		"safe lost alone":                   {last, at(last.Clock+1, 7, 2, false), quote.SameBoot},
		"one millisecond back":              {last, at(last.Clock-1, 7, 2, true), quote.RolledBack},
		"back without safe, same boot":      {last, at(last.Clock-1, 7, 2, false), quote.RolledBack},
		"resumed":                           {last, at(last.Clock+minute, 7, 3, true), quote.Resumed},
		"resumed with a lower clock":        {last, at(last.Clock-1, 7, 3, false), quote.RolledBack},
		"restarts back":                     {last, at(last.Clock+minute, 7, 1, true), quote.RolledBack},
		"restarts half around":              {last, at(last.Clock+minute, 7, 2+1<<31, true), quote.RolledBack},
		"restarts just below half":          {last, at(last.Clock+minute, 7, 1+1<<31, true), quote.Resumed},
		"orderly reset":                     {last, at(last.Clock+minute, 8, 0, true), quote.NewBoot},
		"reset with a lower, safe clock":    {last, at(last.Clock-1, 8, 0, true), quote.RolledBack},
		"power cut":                         {last, at(last.Clock-nvSave, 8, 0, false), quote.NewBoot},
		"power cut, one millisecond beyond": {last, at(last.Clock-nvSave-1, 8, 0, false), quote.RolledBack},
		"resets back":                       {last, at(last.Clock+minute, 6, 2, true), quote.RolledBack},
		"resets half around":                {last, at(last.Clock+minute, 7+1<<31, 0, true), quote.RolledBack},
		"counters with an offset that wrap": {at(5, 0xffffffff, 0xffffffff, true), at(6, 0, 4, true), quote.NewBoot},
		"restarts that wrap":                {at(5, 1, 0xffffffff, true), at(6, 1, 0, true), quote.Resumed},
		"clock at its end":                  {at(1<<64-1, 1, 0, true), at(0, 2, 0, false), quote.RolledBack},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := tt.now.Since(tt.last)
			if got != tt.want || ok != (tt.want != quote.RolledBack) {
				t.Errorf("%s after %s: %s, %t; want %s", tt.now, tt.last, got, ok, tt.want)
			}
		})
	}
}

func TestContinuityNamesEveryValue(t *testing.T) {
	for c, want := range map[quote.Continuity]string{quote.RolledBack: "RolledBack", quote.FirstSeen: "FirstSeen", quote.NewBoot: "NewBoot", 9: "Continuity(9)", -1: "Continuity(-1)"} {
		if got := c.String(); got != want {
			t.Errorf("Continuity %d: %s, want %s", int(c), got, want)
		}
	}
}
