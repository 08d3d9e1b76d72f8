package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

// Quote implements verifier.EvidenceStore.
func (s *Nodes) Quote(ctx context.Context, id attest.AgentID, which attest.Digest) (q machine.StoredQuote, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read quote %s of %q", which, id), func(tx *sql.Tx) error {
		name := which.String()
		if which.IsZero() {
			if name, err = one(ctx, tx, verifier.ErrNotFound, text, `SELECT last_quote FROM nodes WHERE id = ?`, string(id)); err != nil {
				return err
			}
		}
		q, err = one(ctx, tx, verifier.ErrNotFound, scanQuote,
			`SELECT node, digest, boot, at, nonce, packed, bank, mask, position FROM quotes WHERE node = ? AND digest = ?`, string(id), name)
		if errors.Is(err, verifier.ErrNotFound) {
			_, named := one(ctx, tx, err, text, `SELECT quote FROM transitions WHERE node = ? AND quote = ? AND quote <> ''`, string(id), name)
			if err = named; err == nil {
				err = verifier.ErrExpired
			}
		}
		return err
	})
	return q, err
}

// putQuote stores a quote and makes it the last one.
func putQuote(ctx context.Context, tx *sql.Tx, id attest.AgentID, q machine.StoredQuote) error {
	if q.Digest.IsZero() {
		return fmt.Errorf("quote of boot %q has no digest", q.Boot)
	}
	position, err := toInt(q.Position)
	if err != nil {
		return fmt.Errorf("quote %s: position: %w", q.Digest, err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO quotes (node, digest, boot, at, nonce, packed, bank, mask, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (node, digest) DO NOTHING`,
		string(id), q.Digest.String(), q.Boot, instant{q.At}.nanos(), q.Nonce, q.Packed, int64(q.Bank), int64(q.Mask), position)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE nodes SET last_quote = ? WHERE id = ?`, q.Digest.String(), string(id))
	return err
}

// dropOldQuotes keeps the last quote and those that a transition names.
func dropOldQuotes(ctx context.Context, tx *sql.Tx, id attest.AgentID) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM quotes WHERE node = ?
		AND digest <> (SELECT last_quote FROM nodes WHERE id = quotes.node)
		AND NOT EXISTS (SELECT 1 FROM transitions WHERE transitions.node = quotes.node AND transitions.quote = quotes.digest)`, string(id))
	return err
}

func scanQuote(rows *sql.Rows) (q machine.StoredQuote, err error) {
	var d digest
	var at instant
	err = rows.Scan(&q.Node, &d, &q.Boot, &at, &q.Nonce, &q.Packed, &q.Bank, &q.Mask, &q.Position)
	q.Digest, q.At = d.Digest, at.Time
	return q, err
}
