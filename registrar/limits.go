package registrar

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/assay-project/assay/attest"
)

// maxLimiters bounds the memory of limits: two generations of so many.
const maxLimiters = 20_000

// limits slows callers down. The limit per agent counts each address by itself, so that nobody can use up another's.
type limits struct {
	mu                   sync.Mutex
	perAddress, perAgent Rate
	young, old           map[caller]*rate.Limiter
}

// caller is an address, alone or with the agent that it speaks of.
type caller struct {
	address netip.Prefix
	agent   attest.AgentID
}

func newLimits(perAddress, perAgent Rate) *limits {
	return &limits{perAddress: perAddress, perAgent: perAgent, young: map[caller]*rate.Limiter{}}
}

// wait returns how long a caller has to wait; 0 lets the call pass. A refused call uses nothing up.
func (l *limits) wait(r *http.Request, agent attest.AgentID, now time.Time) time.Duration {
	address := addressOf(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.limiter(caller{address: address}, l.perAddress).ReserveN(now, 1)
	second := l.limiter(caller{address, agent}, l.perAgent).ReserveN(now, 1)
	wait := max(first.DelayFrom(now), second.DelayFrom(now))
	if wait > 0 {
		first.CancelAt(now)
		second.CancelAt(now)
	}
	return wait
}

// limiter finds or makes a limiter. When a generation is full the one before it is forgotten: its callers begin afresh.
func (l *limits) limiter(c caller, limit Rate) *rate.Limiter {
	if found := l.young[c]; found != nil {
		return found
	}
	found := l.old[c]
	if found == nil {
		found = rate.NewLimiter(rate.Limit(limit.PerSecond), limit.Burst)
	}
	if len(l.young) >= maxLimiters {
		l.old, l.young = l.young, map[caller]*rate.Limiter{}
	}
	l.young[c] = found
	return found
}

// addressOf returns the peer: an IPv4 address, or the /64 of an IPv6 one, all of which one machine can use. What is no IP address is one caller.
func addressOf(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	address = address.Unmap().WithZone("")
	length := 32
	if address.Is6() {
		length = 64
	}
	prefix, _ := address.Prefix(length) // both lengths are possible
	return prefix
}
