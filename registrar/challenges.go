package registrar

import (
	"net/netip"
	"slices"
	"time"
)

// source is the name of an address in Challenge.From; "" for what is no IP address.
func source(from netip.Prefix) string {
	if !from.IsValid() {
		return ""
	}
	return from.String()
}

// live returns the challenges that have not expired.
func live(challenges []Challenge, now time.Time) []Challenge {
	var kept []Challenge
	for _, c := range challenges {
		if c.Expires.After(now) {
			kept = append(kept, c)
		}
	}
	return kept
}

// shareOut drops the oldest challenge of the address that has most of them until no more are left than are kept for one agent. Whoever knows
// the EK, which is public, can register it: from one address that pushes out no challenge of another.
func shareOut(challenges []Challenge) []Challenge {
	for len(challenges) > maxChallenges {
		shares := map[string]int{}
		for _, c := range challenges {
			shares[c.From]++
		}
		most := 0
		for _, n := range shares {
			most = max(most, n)
		}
		crowded := slices.IndexFunc(challenges, func(c Challenge) bool { return shares[c.From] == most })
		challenges = slices.Delete(challenges, crowded, crowded+1)
	}
	return challenges
}

// after returns the challenges that stay when number i was proven: all others but the earlier ones for the same keys, which would bring
// back what the machine said before. Those of other keys are not the machine's, or it has answered none of them yet.
func after(challenges []Challenge, i int) []Challenge {
	var kept []Challenge
	for n, c := range challenges {
		if n > i || n < i && !sameKeys(c.Registration, challenges[i].Registration) {
			kept = append(kept, c)
		}
	}
	return kept
}
