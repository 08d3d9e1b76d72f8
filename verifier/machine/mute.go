package machine

import (
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// muteLimit bounds how long a cordoned node may give no evidence without being shown as Stale (C3). It is counted from the last accepted
// quote before the cordon.
const muteLimit = 30 * time.Minute

// Cordoned: the operator saw the node's Kubernetes node turn unschedulable, at Since or before, or schedulable again. It is no evidence, and
// a kubelet can bring it about by itself.
type Cordoned struct {
	Now, Since time.Time
	On         bool
}

func (e Cordoned) at() time.Time { return e.Now }

// cordoned begins or ends a mute: while it lasts, a verdict that would be Stale stays what it was.
//
// Whoever has a kubelet's credentials cordons and uncordons as he likes, so a mute is not renewed by that: a cordon within the time of the
// last mute gets what is left of it, and a later one a mute of its own only after a quote that was accepted since that time ended. A node
// that is Stale already stays it.
func (s State) cordoned(who Subject, e Cordoned) (State, []Action) {
	was := s.Cordoned
	s.Cordoned = e.On
	switch {
	case !e.On:
		s.Muted = false
	case was || s.Read(e.Now, who.Interval) == attest.Stale:
	case s.LastAccepted.After(s.MutedFrom.Add(muteLimit)):
		s.Muted, s.MutedFrom = true, s.LastAccepted
		if !e.Since.IsZero() && e.Since.Before(s.MutedFrom) {
			s.MutedFrom = e.Since
		}
	default:
		s.Muted = true // as long as the time of the last one goes on
	}
	return s, []Action{Schedule{}}
}

// muted reports whether the node's cordon keeps its silence from being shown. A quote that was accepted before the mute counts from shows
// that the clock was set back, and the mute would last until the clock is there again.
func (s State) muted(now time.Time) bool {
	return s.Muted && now.Before(s.MutedFrom.Add(muteLimit)) && !s.LastAccepted.Before(s.MutedFrom)
}

// Mute tells people of a mute that is in force; nil for none.
func (s State) Mute(now time.Time, interval time.Duration) *api.Mute {
	if !s.muted(now) {
		return nil
	}
	unmuted := s
	unmuted.Muted = false
	return &api.Mute{Until: s.MutedFrom.Add(muteLimit), Stale: unmuted.Read(now, interval) == attest.Stale}
}
