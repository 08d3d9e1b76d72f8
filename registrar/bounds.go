package registrar

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// How often expired registrations are swept: regularly, and sooner when a bound is reached.
const (
	sweepEvery = 10 * time.Second
	sweepAgain = time.Second
)

// bounds keeps the number of records that strangers can make us keep below their limits. It counts on between sweeps; another
// registrar on the same store is noticed at the next sweep.
type bounds struct {
	cfg     *Config
	metrics *metrics

	mu    sync.Mutex
	known Counts
	swept time.Time
}

// demand is what a registration adds to the counts, if it is proven with or without approval, and the address that it comes from.
type demand struct {
	add      Counts
	approval bool
	from     string
}

// take makes room for a registration. Waiting counts only with approval.
func (b *bounds) take(ctx context.Context, d demand) error {
	add := d.add
	if !d.approval {
		add.Waiting = 0
	} else {
		add.Unendorsed = 0
	}
	if add == (Counts{}) {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	age := b.cfg.Now().Sub(b.swept)
	if age >= sweepEvery || age < 0 || age >= sweepAgain && b.exceeded(add) != nil {
		counts, err := b.cfg.Store.Sweep(ctx, b.cfg.Now())
		if err != nil {
			return fmt.Errorf("sweep registrations: %w", err)
		}
		b.known, b.swept = counts, b.cfg.Now()
		b.metrics.kept(counts)
	}
	if err := b.displace(ctx, add, d.from); err != nil {
		return err
	}
	if err := b.exceeded(add); err != nil {
		return err
	}
	b.known.Unproven += add.Unproven
	b.known.Waiting += add.Waiting
	b.known.Unendorsed += add.Unendorsed
	return nil
}

// displace takes the room of unproven records from the address that has most of it: one that fills it keeps nobody else out.
func (b *bounds) displace(ctx context.Context, add Counts, from string) error {
	if add.Unproven == 0 || b.known.Unproven < b.cfg.MaxUnproven || b.exceeded(Counts{Waiting: add.Waiting, Unendorsed: add.Unendorsed}) != nil {
		return nil
	}
	gone, err := b.cfg.Store.Displace(ctx, from)
	if err != nil {
		return fmt.Errorf("make room for a registration: %w", err)
	}
	if gone {
		b.known.Unproven--
	}
	return nil
}

func (b *bounds) exceeded(add Counts) error {
	for _, bound := range []struct {
		have, add, most int
		what            string
	}{
		{b.known.Unproven, add.Unproven, b.cfg.MaxUnproven, "not yet activated"},
		{b.known.Waiting, add.Waiting, b.cfg.MaxWaiting, "waiting for approval"},
		{b.known.Unendorsed, add.Unendorsed, b.cfg.MaxUnendorsed, "without an endorsed EK"},
	} {
		if bound.add > 0 && bound.have+bound.add > bound.most {
			return refuse(ErrFull, "Could not register agent: %d agents are %s, and no more are taken; try again later", bound.have, bound.what)
		}
	}
	return nil
}
