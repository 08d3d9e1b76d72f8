package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

// Transitions implements verifier.EvidenceStore.
func (s *Nodes) Transitions(ctx context.Context, id attest.AgentID, after uint64, limit int) (list []machine.Transition, err error) {
	from, err := toInt(after)
	if err != nil {
		return nil, nil // no transition has a higher number
	}
	err = s.db.read(ctx, fmt.Sprintf("list transitions of %q", id), func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanTransition, `SELECT node, seq, at, from_verdict, to_verdict, boot, cause, detail, quote, policies, failures
			FROM transitions WHERE node = ? AND seq > ? ORDER BY seq LIMIT ?`, string(id), from, max(limit, 0))
		return err
	})
	return list, err
}

// appendTransition refuses a number that is taken: what was said of a node is never said anew.
func appendTransition(ctx context.Context, tx *sql.Tx, id attest.AgentID, t machine.Transition) error {
	seq, err := toInt(t.Seq)
	if err != nil {
		return fmt.Errorf("transition: %w", err)
	}
	policies, err := encode(t.Policies)
	if err != nil {
		return err
	}
	failures, err := encode(t.Failures)
	if err != nil {
		return err
	}
	added, err := affected(ctx, tx, `INSERT INTO transitions (node, seq, at, from_verdict, to_verdict, boot, cause, detail, quote, policies, failures)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (node, seq) DO NOTHING`,
		string(id), seq, instant{t.At}.nanos(), string(t.From), string(t.To), t.Boot, t.Cause, t.Detail, t.Quote.String(), policies, failures)
	if err == nil && added == 0 {
		err = fmt.Errorf("transition %d: %w", seq, verifier.ErrExists)
	}
	return err
}

func scanTransition(rows *sql.Rows) (t machine.Transition, err error) {
	var at instant
	var quote digest
	err = rows.Scan(&t.Node, &t.Seq, &at, &t.From, &t.To, &t.Boot, &t.Cause, &t.Detail, &quote, document{&t.Policies}, document{&t.Failures})
	t.At, t.Quote = at.Time, quote.Digest
	return t, err
}
