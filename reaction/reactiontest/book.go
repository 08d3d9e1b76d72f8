// Package reactiontest holds a reaction.Book in memory, for the tests of those who use one. It trusts its callers to use it one at a time,
// and leaves transactions and durability to real stores.
package reactiontest

import (
	"fmt"
	"slices"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
)

// Book keeps rows in a slice. Its zero value is empty.
type Book struct {
	rows       []reaction.Row // rows[i] has the ID i+1
	suspension api.Suspension
	// Identities are the Kubernetes nodes that are bound to agents.
	Identities map[attest.AgentID]api.KubernetesNode
}

// Copy is the book as it is now: what a transaction that fails goes back to.
func (b *Book) Copy() *Book {
	c := *b
	c.rows = slices.Clone(b.rows)
	return &c
}

// Rows implements reaction.Book.
func (b *Book) Rows(q reaction.Query) ([]reaction.Row, error) {
	var found []reaction.Row
	for _, r := range b.rows {
		if q.Limit > 0 && len(found) == q.Limit {
			break
		}
		if r.ID > q.After && (q.ID == 0 || r.ID == q.ID) && (q.Node == "" || r.Node == q.Node) && (q.Owner == "" || r.Owner == q.Owner) &&
			(q.Cause == "" || r.Cause == q.Cause) && (q.States == nil || slices.Contains(q.States, r.State)) {
			found = append(found, r)
		}
	}
	return found, nil
}

// Put implements reaction.Book.
func (b *Book) Put(r reaction.Row) (reaction.Row, error) {
	open, err := b.Rows(reaction.Query{Node: r.Node, States: reaction.Open(), Limit: 1})
	if err != nil {
		return r, err
	}
	if len(open) > 0 && open[0].ID != r.ID && slices.Contains(reaction.Open(), r.State) {
		return r, fmt.Errorf("node %s has the open reaction %d", r.Node, open[0].ID)
	}
	if r.ID == 0 {
		r.ID = uint64(len(b.rows)) + 1
		b.rows = append(b.rows, r)
		return r, nil
	}
	b.rows[r.ID-1] = r
	return r, nil
}

// Identity implements reaction.Book.
func (b *Book) Identity(node attest.AgentID) (*api.KubernetesNode, error) {
	if id, ok := b.Identities[node]; ok {
		return &id, nil
	}
	return nil, nil
}

// Suspension implements reaction.Book.
func (b *Book) Suspension() (api.Suspension, error) { return b.suspension, nil }

// Suspend implements reaction.Book.
func (b *Book) Suspend(s api.Suspension) error {
	b.suspension = s
	return nil
}
