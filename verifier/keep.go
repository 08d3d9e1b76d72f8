package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/machine"
)

// stored reads the whole evidence of the boot; nil when there is none.
func (w *worker) stored(ctx context.Context) (*machine.Stored, error) {
	if w.node.State.Boot == "" {
		return nil, nil
	}
	q, err := w.v.cfg.Evidence.Quote(ctx, w.node.ID, attest.Digest{})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored := &machine.Stored{Quote: q}
	list, err := w.v.cfg.Evidence.List(ctx, w.node.ID, w.node.State.Boot)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	stored.List = list.ASCII
	log, err := w.v.cfg.Evidence.BootLog(ctx, w.node.ID, w.node.State.Boot)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	stored.BootLog = log
	return stored, nil
}

// keep holds accepted evidence back until it is written.
func (w *worker) keep(k machine.Keep) {
	kept := Commit{}
	if w.kept != nil {
		kept = *w.kept
	}
	if k.Quote != nil {
		q := *k.Quote
		q.Node = w.node.ID
		kept.Quotes = []machine.StoredQuote{q}
	}
	if k.Chunk != nil {
		if k.Chunk.First == 0 {
			kept.Chunks = nil
		}
		kept.Chunks = append(slices.Clip(kept.Chunks), *k.Chunk)
	}
	if k.BootLog != nil {
		kept.BootLog = k.BootLog
	}
	w.kept = &kept
}

// record writes a transition with all that was kept, then tells those who watch.
func (w *worker) record(ctx context.Context, t machine.Transition) error {
	t.Node = w.node.ID
	if err := w.write(ctx, &t); err != nil {
		return err
	}
	w.v.announce(t)
	return nil
}

func (w *worker) flush(ctx context.Context) error {
	if w.kept == nil {
		return nil
	}
	return w.write(ctx, nil)
}

func (w *worker) write(ctx context.Context, t *machine.Transition) error {
	var c Commit
	if w.kept != nil {
		c = *w.kept
	}
	c.Node, c.Expect, c.Transition, c.Reaction = w.node, w.node.Version, t, w.v.wanted(w.node)
	version, err := w.v.cfg.Store.Commit(ctx, c)
	if err != nil {
		return fmt.Errorf("write node: %w", err)
	}
	w.node.Version, w.written = version, w.v.cfg.Now()
	w.kept = nil
	return nil
}

// flushDue says whether kept evidence is to be written now, without a transition (C12).
func (w *worker) flushDue() bool {
	if w.kept == nil {
		return false
	}
	bytes := 0
	for _, c := range w.kept.Chunks {
		bytes += len(c.ASCII)
	}
	return bytes >= flushBytes || w.v.cfg.Now().Sub(w.written) >= flushAfter
}
