package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
)

const (
	// silenceLook is the pause between two looks for nodes that have been silent for too long.
	silenceLook = 15 * time.Second
	// silentShare is the part of the fleet, one in so many, beyond which silence is no fault of nodes but of what lies between.
	silentShare = 5
)

// silence counts the nodes that rounds are run for, and those among them that are silent.
func (v *Verifier) silence() (silent, fleet int) {
	v.each(func(n Node) {
		fleet++
		if n.State.SilentFor(v.cfg.Now(), v.Interval(n)) > 0 {
			silent++
		}
	})
	return silent, fleet
}

// tooSilent reports whether so much of the fleet is silent that no node is reacted to for it.
func (v *Verifier) tooSilent() bool {
	silent, fleet := v.silence()
	return silent*silentShare > fleet
}

// each calls look with every node that is not paused, as its goroutine last published it.
func (v *Verifier) each(look func(Node)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, w := range v.workers {
		if n := *w.shown.Load(); !n.State.Paused {
			look(n)
		}
	}
}

// watchSilence looks for silent nodes until ctx ends. A failure of the store costs one look.
func (v *Verifier) watchSilence(ctx context.Context) error {
	ticker := time.NewTicker(silenceLook)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := v.reactToSilence(ctx); err != nil && ctx.Err() == nil {
				v.cfg.Log.Error("react to silence", "err", err)
			}
		}
	}
}

// reactToSilence opens rows for nodes that have been silent for too long, or takes back the untouched ones while too much of the fleet is.
func (v *Verifier) reactToSilence(ctx context.Context) error {
	wants := map[attest.AgentID]*reaction.Want{}
	v.each(func(n Node) {
		if want := v.wanted(n); want != nil && want.Cause == api.CauseSilence {
			wants[n.ID] = want
		}
	})
	silences := reaction.Query{Cause: api.CauseSilence, States: reaction.Open()}
	open, err := v.Reactions(ctx, silences)
	if err != nil || len(open) == 0 && len(wants) == 0 {
		return err
	}
	now := v.cfg.Now()
	return v.cfg.Reactions.ChangeReactions(ctx, func(b ReactionBook) error {
		// Read again: a node may have failed meanwhile, and what is wanted for silence would take back the reaction to that.
		open, err := b.Rows(silences)
		if err != nil {
			return err
		}
		for _, r := range open {
			if err := reaction.Settle(b, r.Node, wants[r.Node], now); err != nil {
				return err
			}
		}
		if v.tooSilent() {
			silent, fleet := v.silence()
			return reaction.Withdraw(b, fmt.Sprintf("%d of %d nodes are silent", silent, fleet), now)
		}
		for id, want := range wants {
			if err := reaction.Notice(b, id, *want, now); err != nil {
				return err
			}
		}
		return nil
	})
}
