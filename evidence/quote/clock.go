package quote

import "fmt"

// Clock is what a TPM says of its time: TPMS_CLOCK_INFO (TPM 2.0 Part 2, 10.11.1).
type Clock struct {
	// Clock counts milliseconds while the TPM has power. It survives resets, up to a lost last stretch when Safe is false.
	Clock uint64 `json:"clock"`
	// ResetCount counts TPM Resets (Startup(CLEAR) without a state that was saved for it): a boot each.
	ResetCount uint32 `json:"resetCount"`
	// RestartCount counts TPM Restarts and Resumes since the last Reset.
	RestartCount uint32 `json:"restartCount"`
	// Safe is false when a higher Clock may have been reported before: after a power cut, until the next save.
	Safe bool `json:"safe"`
}

// String returns the four values for people.
func (c Clock) String() string {
	return fmt.Sprintf("clock %d ms, resets %d, restarts %d, safe %t", c.Clock, c.ResetCount, c.RestartCount, c.Safe)
}

// Continuity says how a quote's clock follows the last accepted one of the same AK.
type Continuity int

const (
	// RolledBack: the clock does not follow the last one (failure ClockRollback). It is the zero value, so that forgetting fails closed.
	RolledBack Continuity = iota
	// FirstSeen: no clock was accepted before.
	FirstSeen
	// SameBoot: neither counter moved.
	SameBoot
	// Resumed: the TPM was restarted or resumed. PCR values and list position tell a Resume, which is the same boot, from a Restart,
	// which is a new one.
	Resumed
	// NewBoot: the TPM was reset.
	NewBoot
)

// String returns the name of the constant.
func (c Continuity) String() string {
	names := [...]string{"RolledBack", "FirstSeen", "SameBoot", "Resumed", "NewBoot"}
	if c < 0 || int(c) >= len(names) {
		return fmt.Sprintf("Continuity(%d)", int(c))
	}
	return names[c]
}

// lostAtPowerCut is the most that a clock may fall back when power is cut: the longest time between two saves of the clock to
// non-volatile memory, 2^22 ms (TPM 2.0 Part 1, "Clock": TPM_PT_CLOCK_UPDATE).
const lostAtPowerCut = 1 << 22

// Since tells how now follows last, the last accepted clock of the same AK. ok is false for a clock that went back (ClockRollback).
//
// Counters are compared as differences modulo 2^32, of which the lower half is forward: owner-hierarchy keys show them with an
// offset of their own, so that they may wrap. RestartCount is free after a reset, and Safe alone is never a failure.
func (now Clock) Since(last Clock) (continuity Continuity, ok bool) {
	const half = 1 << 31
	resets := now.ResetCount - last.ResetCount
	restarts := now.RestartCount - last.RestartCount
	notLower := now.Clock >= last.Clock
	switch {
	case resets == 0 && restarts == 0 && notLower:
		return SameBoot, true
	case resets == 0 && restarts > 0 && restarts < half && notLower:
		return Resumed, true
	case resets > 0 && resets < half && (notLower || !now.Safe && last.Clock-now.Clock <= lostAtPowerCut):
		return NewBoot, true
	}
	return RolledBack, false
}
