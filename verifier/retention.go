package verifier

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// How the clean-up goes about it.
const (
	// MinEvidenceRetention is the shortest time for which the evidence of ended boots is kept: a night and a day to look into an alarm.
	MinEvidenceRetention = 24 * time.Hour
	// tokenGrace is how long an expired join token is still listed, so that people see why it is refused.
	tokenGrace = 7 * 24 * time.Hour
	// cleanEvery is the pause between two clean-ups, cleanPause that between two batches: all writers take turns.
	cleanEvery = time.Hour
	cleanPause = 100 * time.Millisecond
	// cleanBatch bounds the rows of one transaction, cleanMost the batches of one clean-up; what is left waits for the next.
	cleanBatch = 64
	cleanMost  = 4096
)

// Retention says what is deleted when (C12). Transitions are kept for ever.
type Retention struct {
	// Store deletes. Nil: nothing is.
	Store RetentionStore
	// Evidence is how long lists, quotes and boot logs of a boot are kept after its end; 0 keeps them for ever.
	Evidence time.Duration
	// Sweep deletes what expires in the same database and is not the verifier's; nil for nothing.
	Sweep func(ctx context.Context, now time.Time) error
}

func (r Retention) check() error {
	switch {
	case r.Evidence != 0 && r.Evidence < MinEvidenceRetention:
		return fmt.Errorf("evidence retention %v is below %v; 0 keeps evidence for ever", r.Evidence, MinEvidenceRetention)
	case r.Evidence != 0 && r.Store == nil:
		return fmt.Errorf("evidence retention %v needs a store that deletes", r.Evidence)
	}
	return nil
}

// cleanUp deletes what has expired, from time to time, until ctx ends. A failure of the store costs one clean-up.
func (v *Verifier) cleanUp(ctx context.Context) error {
	timer := time.NewTimer(rand.N(cleanEvery)) // servers that start together do not clean together
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			if err := v.clean(ctx); err != nil && ctx.Err() == nil {
				v.cfg.Log.Error("clean up", "err", err)
			}
			timer.Reset(cleanEvery - cleanEvery/10 + rand.N(cleanEvery/5))
		}
	}
}

// clean is one clean-up. Each batch is a transaction of its own, so that one that is cut off has lost nothing but time.
func (v *Verifier) clean(ctx context.Context) error {
	r, now := v.cfg.Retention, v.cfg.Now()
	if r.Store != nil && r.Evidence > 0 {
		err := v.inBatches(ctx, "boots", func() (int, bool, error) {
			gone, err := r.Store.ExpireEvidence(ctx, now.Add(-r.Evidence), cleanBatch)
			return gone.Boots, gone != Expired{}, err
		})
		if err != nil {
			return fmt.Errorf("evidence of ended boots: %w", err)
		}
	}
	if r.Store != nil {
		err := v.inBatches(ctx, "tokens", func() (int, bool, error) {
			gone, err := r.Store.ExpireTokens(ctx, now.Add(-tokenGrace), cleanBatch)
			return gone, gone == cleanBatch, err
		})
		if err != nil {
			return fmt.Errorf("expired join tokens: %w", err)
		}
	}
	if r.Sweep != nil {
		if err := r.Sweep(ctx, now); err != nil {
			return err
		}
	}
	v.metrics.cleaned.Set(float64(now.Unix()))
	return nil
}

// inBatches deletes batch after batch, with pauses, until there is no more.
func (v *Verifier) inBatches(ctx context.Context, what string, batch func() (count int, more bool, err error)) error {
	total := 0
	defer func() {
		if total > 0 {
			v.cfg.Log.Info("deleted what was kept long enough", "what", what, "count", total)
		}
	}()
	for range cleanMost {
		count, more, err := batch()
		if err != nil {
			return err
		}
		total += count
		v.metrics.expired.WithLabelValues(what).Add(float64(count))
		if !more {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(cleanPause):
		}
	}
	return nil
}
