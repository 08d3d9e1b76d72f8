package agent

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	b := backoff{first: time.Second, limit: 10 * time.Second}
	for round, span := range []time.Duration{1, 2, 4, 8, 10, 10} {
		span *= time.Second
		if pause := b.next(); pause < span/2 || pause > span {
			t.Errorf("pause %d is %v, want %v to %v", round, pause, span/2, span)
		}
	}
	b.reset()
	if pause := b.next(); pause > time.Second {
		t.Errorf("the first pause after a success is %v", pause)
	}
}

func TestWait(t *testing.T) {
	if err := wait(t.Context(), time.Millisecond); err != nil {
		t.Errorf("wait: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := wait(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("wait: %v, want it to end with the context", err)
	}
}
