package reaction

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// Row is a reaction as it is kept.
type Row struct {
	api.Reaction
	// Budget is what the owner allowed when the row was last looked at.
	Budget int `json:"budget"`
	// Attempts counts the claims to apply. With one, something may have been touched, and only lifting ends the row.
	Attempts int `json:"attempts,omitempty"`
	// Failed counts the reports of failure since the row last came further. It is not claimed again before NotBefore.
	Failed    int       `json:"failed,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
}

// Want is what the present verdict of a node asks for.
type Want struct {
	Cause  api.ReactionCause
	Kinds  []api.ReactionKind
	Owner  string
	Budget int
	DryRun bool
	// Seq is the transition that it rests on.
	Seq uint64
}

// Query selects rows. Members that are zero select everything.
type Query struct {
	ID     uint64
	Node   attest.AgentID
	Owner  string
	Cause  api.ReactionCause
	States []api.ReactionState
	// After is the highest ID that is left out, Limit the most rows that are wanted.
	After uint64
	Limit int
}

// Book is what one transaction sees of the rows, and of what belongs to them.
type Book interface {
	// Rows returns the rows that a query selects, lowest ID first.
	Rows(q Query) ([]Row, error)
	// Put writes a row and returns it. A row without an ID is new and gets the next one; no ID is ever used twice. A second open row for a node
	// is refused.
	Put(r Row) (Row, error)
	// Identity returns the Kubernetes node that is bound to an agent, nil for none.
	Identity(node attest.AgentID) (*api.KubernetesNode, error)
	// Suspension returns the one stored with Suspend, or its zero value.
	Suspension() (api.Suspension, error)
	Suspend(s api.Suspension) error
}

// Open are the states of rows that are not at an end; Taken those that take a place of the budget.
func Open() []api.ReactionState { return append(Taken(), api.ReactionWaiting) }

// Taken returns the states that take a place of the owner's budget.
func Taken() []api.ReactionState {
	return []api.ReactionState{api.ReactionDue, api.ReactionClaimed, api.ReactionApplied, api.ReactionLifting}
}

// ErrRefused says that a row does not allow what is asked; the text tells why.
var ErrRefused = errors.New("the reaction does not allow this")

// ErrNotFound says that there is no such row.
var ErrNotFound = errors.New("no such reaction")

// Settle brings a node's row in line with what its verdict asks for; nil is nothing. It runs in the transaction that writes the verdict.
// Silence alone never opens a row here: that takes Notice, which knows the fleet.
func Settle(b Book, node attest.AgentID, want *Want, now time.Time) error {
	row, open, err := openRow(b, node)
	if err != nil {
		return err
	}
	if open {
		next, err := moved(b, row, want)
		if err != nil || next.same(row) {
			return err
		}
		if _, err := put(b, next, now); err != nil {
			return err
		}
		if next.State != api.ReactionDropped {
			return fill(b, row.Owner, now)
		}
	}
	if want != nil && want.Cause == api.CauseFailure {
		if err := decide(b, node, *want, now); err != nil {
			return err
		}
	}
	if !open {
		return nil
	}
	return fill(b, row.Owner, now) // what the dropped row took is free
}

// Notice opens a row for a node that has been silent for too long, where it has none. The caller keeps the rule of the fleet.
func Notice(b Book, node attest.AgentID, want Want, now time.Time) error {
	if _, open, err := openRow(b, node); open || err != nil {
		return err
	}
	return decide(b, node, want, now)
}

// Withdraw drops the decisions upon silence that nobody has touched: too much of the fleet is silent.
func Withdraw(b Book, why string, now time.Time) error {
	rows, err := b.Rows(Query{Cause: api.CauseSilence, States: []api.ReactionState{api.ReactionWaiting, api.ReactionDue}})
	if err != nil {
		return err
	}
	for _, r := range rows {
		if r.Attempts > 0 {
			continue
		}
		r.State, r.Detail = api.ReactionDropped, why
		if _, err := put(b, r, now); err != nil {
			return err
		}
		if err := fill(b, r.Owner, now); err != nil {
			return err
		}
	}
	return nil
}

// Suspend stops all reactions, or lets them go on. What was decided and not touched waits meanwhile; lifting goes on.
func Suspend(b Book, s api.Suspension) error {
	if err := b.Suspend(s); err != nil {
		return err
	}
	states := []api.ReactionState{api.ReactionWaiting}
	if s.Suspended {
		states = append(states, api.ReactionDue)
	}
	rows, err := b.Rows(Query{States: states})
	if err != nil {
		return err
	}
	var owners []string
	for _, r := range rows {
		if !slices.Contains(owners, r.Owner) {
			owners = append(owners, r.Owner)
		}
		if r.Attempts > 0 {
			continue // it stays in its place, where suspension keeps it from being claimed
		}
		if r.State, r.Detail = api.ReactionWaiting, r.waitsFor(); s.Suspended {
			r.Detail = suspended(s)
		}
		if _, err := put(b, r, s.At); err != nil {
			return err
		}
	}
	for _, owner := range owners {
		if err := fill(b, owner, s.At); err != nil {
			return err
		}
	}
	return nil
}

func suspended(s api.Suspension) string {
	return fmt.Sprintf("reactions are suspended by %s: %s", s.By, s.Reason)
}

func openRow(b Book, node attest.AgentID) (Row, bool, error) {
	rows, err := b.Rows(Query{Node: node, States: Open(), Limit: 1})
	if err != nil || len(rows) == 0 {
		return Row{}, false, err
	}
	return rows[0], true, nil
}

// decide opens a row, which waits its turn behind the older ones of its owner.
func decide(b Book, node attest.AgentID, want Want, now time.Time) error {
	identity, err := b.Identity(node)
	if err != nil {
		return err
	}
	s, err := b.Suspension()
	if err != nil {
		return err
	}
	r := Row{Reaction: api.Reaction{Node: node, Identity: identity, State: api.ReactionWaiting, Opened: now}}.take(want)
	if r.Detail = r.waitsFor(); s.Suspended {
		r.Detail = suspended(s)
	}
	if _, err := put(b, r, now); err != nil {
		return err
	}
	return fill(b, want.Owner, now)
}

// take writes down what is wanted.
func (r Row) take(want Want) Row {
	r.Cause, r.Kinds, r.Owner, r.Budget, r.DryRun, r.Seq = want.Cause, slices.Clone(want.Kinds), want.Owner, want.Budget, want.DryRun, want.Seq
	return r
}

func (r Row) waitsFor() string {
	return fmt.Sprintf("the budget of %s is %d, and taken", r.Owner, r.Budget)
}

// put writes a row, with the time if its state moved on.
func put(b Book, r Row, now time.Time) (Row, error) {
	r.Changed = now
	return b.Put(r)
}

// fill makes the oldest waiting rows of an owner due, as long as its budget has a free place. This is the only way into Due from Waiting, and
// it counts and writes in one transaction: the budget holds whatever else happens at the same time.
func fill(b Book, owner string, now time.Time) error {
	s, err := b.Suspension()
	if err != nil || s.Suspended {
		return err
	}
	taken, err := b.Rows(Query{Owner: owner, States: Taken()})
	if err != nil {
		return err
	}
	for count := len(taken); ; count++ {
		oldest, err := b.Rows(Query{Owner: owner, States: []api.ReactionState{api.ReactionWaiting}, Limit: 1})
		if err != nil || len(oldest) == 0 || count >= oldest[0].Budget {
			return err
		}
		r := oldest[0]
		r.State, r.Detail = api.ReactionDue, ""
		if _, err := put(b, r, now); err != nil {
			return err
		}
	}
}

// moved is an open row as what is wanted now leaves it.
func moved(b Book, r Row, want *Want) (Row, error) {
	identity, err := b.Identity(r.Node)
	if err != nil {
		return r, err
	}
	switch {
	case r.lifting():
		return r, nil // whatever is wanted comes after it, as a row of its own
	case r.Attempts == 0:
		r.Identity = identity
	case !sameNode(r.Identity, identity):
		want = nil // what was done is undone where it was done
	}
	return r.follow(want), nil
}

func sameNode(a, b *api.KubernetesNode) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// follow moves a row that is not being lifted to what is wanted now.
func (r Row) follow(want *Want) Row {
	switch {
	case want != nil && r.Attempts == 0 && want.Owner == r.Owner && want.Cause == r.Cause:
		if r.State == api.ReactionDue && want.Budget < r.Budget {
			r.State = api.ReactionWaiting // the place may be gone
		}
		r = r.take(*want)
		if r.State == api.ReactionWaiting {
			r.Detail = r.waitsFor()
		}
	case want != nil && r.answers(*want):
		r.Budget = want.Budget
	case r.Attempts == 0:
		r.State, r.Detail = api.ReactionDropped, "the reason was gone before anything was done"
	default:
		// Who has it claimed may still be at it, so nobody else lifts before the lease is over.
		r.State, r.Lifting, r.Failed, r.NotBefore, r.Detail = api.ReactionLifting, true, 0, time.Time{}, ""
	}
	return r
}

// lifting reports whether the row is on its way to be undone.
func (r Row) lifting() bool { return r.State == api.ReactionLifting || r.Lifting }

// answers reports whether what was begun is what is wanted.
func (r Row) answers(want Want) bool {
	return r.Cause == want.Cause && r.Owner == want.Owner && r.DryRun == want.DryRun && slices.Equal(r.Kinds, want.Kinds)
}

// same reports whether nothing is to be written. A new reason of the same cause alone changes no row.
func (r Row) same(old Row) bool {
	return r.State == old.State && r.Budget == old.Budget && r.DryRun == old.DryRun && slices.Equal(r.Kinds, old.Kinds) && sameNode(r.Identity, old.Identity)
}
