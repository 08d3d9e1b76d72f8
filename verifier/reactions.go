package verifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
)

// ReactionBook is what one transaction of a store sees of reactions and of the nodes that they rest on. It ends with the transaction.
type ReactionBook interface {
	reaction.Book
	// Node returns a node without its policies, or ErrNotFound.
	Node(id attest.AgentID) (Node, error)
}

// ReactionStore keeps reactions in the database of the nodes.
type ReactionStore interface {
	// ViewReactions runs look on one state of the store. It must not write.
	ViewReactions(ctx context.Context, look func(ReactionBook) error) error
	// ChangeReactions runs change in one transaction that no other writer overlaps; an error takes all of it back.
	ChangeReactions(ctx context.Context, change func(ReactionBook) error) error
}

// wanted is what a node's state asks for by its assignment; nil is nothing. A reaction to a failure needs a verdict behind which a quote stands:
// what merely answers at a node's address, or keeps it from answering, brings the milder ones for silence at most, and after their time.
func wanted(n Node, now time.Time, interval time.Duration) *reaction.Want {
	a := n.Assignment
	if a.Mode != api.Enforce || a.Owner == "" {
		return nil
	}
	want := &reaction.Want{Owner: a.Owner, Budget: a.Budget, DryRun: a.DryRun, Seq: n.State.Seq}
	switch {
	case n.State.FailedByQuote():
		want.Cause, want.Kinds = api.CauseFailure, a.Reactions
	case a.WhenSilent != nil && n.State.SilentFor(now, interval) > time.Duration(a.WhenSilent.After*float64(time.Second)):
		want.Cause, want.Kinds = api.CauseSilence, a.WhenSilent.Reactions
	}
	if len(want.Kinds) == 0 {
		return nil
	}
	return want
}

func (v *Verifier) wanted(n Node) *reaction.Want { return wanted(n, v.cfg.Now(), v.Interval(n)) }

// Reactions returns the rows that a query selects, lowest ID first.
func (v *Verifier) Reactions(ctx context.Context, q reaction.Query) (rows []reaction.Row, err error) {
	err = v.cfg.Reactions.ViewReactions(ctx, func(b ReactionBook) error {
		rows, err = b.Rows(q)
		return err
	})
	return rows, err
}

// ClaimReaction gives a row to an operator, if what is in the store now bears it.
func (v *Verifier) ClaimReaction(ctx context.Context, id uint64, name string) (row reaction.Row, err error) {
	err = v.cfg.Reactions.ChangeReactions(ctx, func(b ReactionBook) error {
		row, err = reaction.Claim(b, reaction.By{ID: id, Name: name, Now: v.cfg.Now()}, v.current(b))
		return err
	})
	if err == nil {
		v.cfg.Log.Info("reaction claimed", "reaction", row.ID, "node", row.Node, "lifting", row.Lifting, "by", name)
	}
	return row, err
}

// ReportReaction takes an operator's word on what became of a row that it claimed.
func (v *Verifier) ReportReaction(ctx context.Context, by reaction.By, report api.ReactionReport) (row reaction.Row, err error) {
	by.Now = v.cfg.Now()
	err = v.cfg.Reactions.ChangeReactions(ctx, func(b ReactionBook) error {
		row, err = reaction.Report(b, by, report, v.current(b))
		return err
	})
	if err == nil {
		v.cfg.Log.Info("reaction reported", "reaction", row.ID, "node", row.Node, "state", row.State, "by", by.Name)
	}
	return row, err
}

// current tells what the nodes of a transaction ask for. A node that is silent in the store may have answered since: evidence that changes no
// verdict is written later.
func (v *Verifier) current(b ReactionBook) reaction.Current {
	return func(id attest.AgentID) (*reaction.Want, error) {
		n, err := b.Node(id)
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("node %s: %w", id, err)
		}
		want := v.wanted(n)
		if want == nil || want.Cause != api.CauseSilence {
			return want, nil
		}
		shown, err := v.Show(id)
		if err != nil || v.tooSilent() {
			return nil, nil
		}
		if want = v.wanted(shown); want != nil && want.Cause == api.CauseSilence {
			return want, nil
		}
		return nil, nil
	}
}

// Suspend stops all reactions, or lets them go on.
func (v *Verifier) Suspend(ctx context.Context, s api.Suspension) error {
	s.At = v.cfg.Now()
	err := v.cfg.Reactions.ChangeReactions(ctx, func(b ReactionBook) error { return reaction.Suspend(b, s) })
	if err == nil {
		v.cfg.Log.Warn("reactions suspended or resumed", "suspended", s.Suspended, "reason", s.Reason, "by", s.By)
	}
	return err
}

// Suspension says whether all reactions are suspended.
func (v *Verifier) Suspension(ctx context.Context) (s api.Suspension, err error) {
	err = v.cfg.Reactions.ViewReactions(ctx, func(b ReactionBook) error {
		s, err = b.Suspension()
		return err
	})
	return s, err
}
