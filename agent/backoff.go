package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff spaces tries: each pause is drawn from the upper half of a span that doubles up to a limit, so that a fleet that lost its
// server does not come back in one moment.
type backoff struct {
	first, limit time.Duration
	span         time.Duration // of the next pause; 0 before the first
}

// next returns the next pause.
func (b *backoff) next() time.Duration {
	switch {
	case b.span == 0:
		b.span = b.first
	case b.span < b.limit/2:
		b.span *= 2
	default:
		b.span = b.limit
	}
	half := b.span / 2
	return half + rand.N(half+1)
}

// reset starts again after a success.
func (b *backoff) reset() { b.span = 0 }

// wait pauses, or returns the context's error when that ends first.
func wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
