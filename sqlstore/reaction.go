package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier"
)

// Reactions implements verifier.ReactionStore.
type Reactions struct{ db *DB }

// Reactions returns the reactions of the database.
func (db *DB) Reactions() *Reactions { return &Reactions{db} }

// ViewReactions implements verifier.ReactionStore.
func (s *Reactions) ViewReactions(ctx context.Context, look func(verifier.ReactionBook) error) error {
	return s.db.read(ctx, "read reactions", func(tx *sql.Tx) error { return look(book{ctx, tx}) })
}

// ChangeReactions implements verifier.ReactionStore.
func (s *Reactions) ChangeReactions(ctx context.Context, change func(verifier.ReactionBook) error) error {
	return s.db.write(ctx, "change reactions", func(tx *sql.Tx) error { return change(book{ctx, tx}) })
}

// book is what one transaction sees. It lives as long as its transaction.
type book struct {
	ctx context.Context
	tx  *sql.Tx
}

// Node implements verifier.ReactionBook.
func (b book) Node(id attest.AgentID) (verifier.Node, error) {
	return one(b.ctx, b.tx, verifier.ErrNotFound, scanNode, selectNode+` WHERE id = ?`, string(id))
}

// Rows implements reaction.Book.
func (b book) Rows(q reaction.Query) ([]reaction.Row, error) {
	after, err := toInt(q.After)
	if err != nil {
		return nil, nil // no reaction has a higher number
	}
	conditions, args := []string{"id > ?"}, []any{after}
	and := func(condition string, values ...any) {
		conditions, args = append(conditions, condition), append(args, values...)
	}
	if q.ID != 0 {
		id, err := toInt(q.ID)
		if err != nil {
			return nil, nil
		}
		and("id = ?", id)
	}
	if q.Node != "" {
		and("node = ?", string(q.Node))
	}
	if q.Owner != "" {
		and("owner = ?", q.Owner)
	}
	if q.Cause != "" {
		and("cause = ?", string(q.Cause))
	}
	if q.States != nil {
		and(statesCondition(q.States))
		for _, state := range q.States {
			args = append(args, string(state))
		}
	}
	limit := int64(-1)
	if q.Limit > 0 {
		limit = int64(q.Limit)
	}
	return query(b.ctx, b.tx, scanReaction, `SELECT id, document FROM reactions WHERE `+strings.Join(conditions, " AND ")+` ORDER BY id LIMIT ?`, append(args, limit)...)
}

// statesCondition has a placeholder for each state, and lets the indexes of open rows serve where no end is among them.
func statesCondition(states []api.ReactionState) string {
	condition := `state IN (` + strings.TrimSuffix(strings.Repeat("?, ", len(states)), ", ") + `)`
	if slices.Contains(states, api.ReactionLifted) || slices.Contains(states, api.ReactionDropped) {
		return condition
	}
	return `open = 1 AND ` + condition
}

// Put implements reaction.Book.
func (b book) Put(r reaction.Row) (reaction.Row, error) {
	document, err := encode(r)
	if err != nil {
		return r, err
	}
	open := slices.Contains(reaction.Open(), r.State)
	if r.ID == 0 {
		r.ID, err = one(b.ctx, b.tx, errors.New("no id came back"), func(rows *sql.Rows) (id uint64, err error) {
			err = rows.Scan(&id)
			return id, err
		}, `INSERT INTO reactions (node, owner, cause, state, open, document) VALUES (?, ?, ?, ?, ?, ?) RETURNING id`,
			string(r.Node), r.Owner, string(r.Cause), string(r.State), open, document)
		return r, err
	}
	changed, err := affected(b.ctx, b.tx, `UPDATE reactions SET owner = ?, cause = ?, state = ?, open = ?, document = ? WHERE id = ? AND node = ?`,
		r.Owner, string(r.Cause), string(r.State), open, document, r.ID, string(r.Node))
	if err == nil && changed == 0 {
		err = fmt.Errorf("reaction %d: %w", r.ID, reaction.ErrNotFound)
	}
	return r, err
}

// Identity implements reaction.Book.
func (b book) Identity(node attest.AgentID) (*api.KubernetesNode, error) {
	bound, err := one(b.ctx, b.tx, verifier.ErrNotFound, scanBinding, `SELECT agent, node_name, node_uid, at FROM node_bindings WHERE agent = ?`, string(node))
	if errors.Is(err, verifier.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &bound.Node, nil
}

// Suspension implements reaction.Book.
func (b book) Suspension() (api.Suspension, error) {
	s, err := one(b.ctx, b.tx, verifier.ErrNotFound, func(rows *sql.Rows) (s api.Suspension, err error) {
		err = rows.Scan(document{&s})
		return s, err
	}, `SELECT document FROM suspension`)
	if errors.Is(err, verifier.ErrNotFound) {
		return api.Suspension{}, nil
	}
	return s, err
}

// Suspend implements reaction.Book.
func (b book) Suspend(s api.Suspension) error {
	document, err := encode(s)
	if err != nil {
		return err
	}
	_, err = b.tx.ExecContext(b.ctx, `INSERT INTO suspension (ordinal, document) VALUES (1, ?) ON CONFLICT (ordinal) DO UPDATE SET document = excluded.document`, document)
	return err
}

func scanReaction(rows *sql.Rows) (r reaction.Row, err error) {
	var id uint64
	err = rows.Scan(&id, document{&r})
	r.ID = id // the document of a new row was written before it had one
	return r, err
}
