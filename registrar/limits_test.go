package registrar

import (
	"encoding/binary"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

// from is a request of the n-th address.
func from(n int) *http.Request {
	var ip [4]byte
	binary.BigEndian.PutUint32(ip[:], 10<<24+uint32(n))
	return &http.Request{RemoteAddr: netip.AddrPortFrom(netip.AddrFrom4(ip), 1234).String()}
}

// However many addresses call, and each for agents of its own, what is remembered of them is bounded; one that keeps calling is not forgotten by that.
func TestLimitsAreBounded(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	l := newLimits(Rate{PerSecond: 1e-9, Burst: 1}, Rate{PerSecond: 1e-9, Burst: 1})
	if wait := l.wait(from(0), "node-1", now); wait != 0 {
		t.Fatalf("the first call waits %v", wait)
	}
	for i := 1; i <= 2*maxLimiters; i++ {
		if wait := l.wait(from(i), "node-1", now); wait != 0 {
			t.Fatalf("the first call of address %d waits %v", i, wait)
		}
		if len(l.young) > maxLimiters || len(l.old) > maxLimiters {
			t.Fatalf("after %d addresses %d and %d limiters are kept, want %d at most each", i, len(l.young), len(l.old), maxLimiters)
		}
		if i%1000 == 0 && l.wait(from(0), "node-1", now) == 0 {
			t.Fatalf("after %d addresses the first one, which kept calling, may call again", i)
		}
	}
	if wait := l.wait(from(1), "node-1", now); wait != 0 {
		t.Errorf("one that was silent for long waits %v: it is still remembered", wait)
	}
}
