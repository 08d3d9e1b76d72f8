package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// Retention implements verifier.RetentionStore.
type Retention struct{ db *DB }

// Retention returns the view of the database that takes away what was kept long enough.
func (db *DB) Retention() *Retention { return &Retention{db} }

// endBoots notes, when a node comes into another boot, that all others ended then. One that it comes back to has not ended.
func endBoots(ctx context.Context, tx *sql.Tx, n verifier.Node) error {
	id, boot := string(n.ID), n.State.Boot
	changed, err := affected(ctx, tx, `UPDATE nodes SET boot = ? WHERE id = ? AND boot <> ?`, boot, id, boot)
	if err != nil || changed == 0 || boot == "" {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM ended_boots WHERE node = ? AND boot = ?`, id, boot); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO ended_boots (node, boot, ended)
		SELECT ?, boot, ? FROM (SELECT boot FROM list_parts WHERE node = ? UNION SELECT boot FROM boot_logs WHERE node = ? UNION SELECT boot FROM quotes WHERE node = ?)
		WHERE boot <> ? ON CONFLICT (node, boot) DO NOTHING`, id, instant{n.State.BootSince}.nanos(), id, id, id, boot)
	return err
}

// endedBoot is a boot whose evidence may go.
type endedBoot struct {
	node attest.AgentID
	boot string
}

// ExpireEvidence implements verifier.RetentionStore.
func (s *Retention) ExpireEvidence(ctx context.Context, endedBy time.Time, limit int) (gone verifier.Expired, err error) {
	if limit < 1 {
		return gone, fmt.Errorf("expire evidence: limit %d is below 1", limit)
	}
	err = s.db.write(ctx, "expire evidence", func(tx *sql.Tx) error {
		b, err := one(ctx, tx, verifier.ErrNotFound, scanEndedBoot, `SELECT e.node, e.boot FROM ended_boots e JOIN nodes n ON n.id = e.node
			WHERE e.ended <= ? AND e.boot <> n.boot
			AND NOT EXISTS (SELECT 1 FROM quotes q WHERE q.node = e.node AND q.digest = n.last_quote AND q.boot = e.boot)
			ORDER BY e.ended, e.node, e.boot LIMIT 1`, instant{endedBy}.nanos())
		if errors.Is(err, verifier.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if gone, err = expireBoot(ctx, tx, b, limit); err != nil {
			return fmt.Errorf("boot %q of node %q: %w", b.boot, b.node, err)
		}
		return nil
	})
	if err != nil {
		return verifier.Expired{}, err
	}
	return gone, nil
}

// expireBoot deletes quotes and boot log first, so that nobody asks for the list, and then the list from its end: what a crash leaves of
// it is still a list.
func expireBoot(ctx context.Context, tx *sql.Tx, b endedBoot, limit int) (gone verifier.Expired, err error) {
	logs, err := query(ctx, tx, text, `SELECT content FROM boot_logs WHERE node = ? AND boot = ?`, string(b.node), b.boot)
	if err != nil {
		return gone, err
	}
	parts, err := query(ctx, tx, text, `SELECT content FROM list_parts WHERE node = ? AND boot = ? ORDER BY first_entry DESC LIMIT ?`, string(b.node), b.boot, limit)
	if err != nil {
		return gone, err
	}
	statements := []string{
		`DELETE FROM quotes WHERE node = ? AND boot = ?`, `DELETE FROM boot_logs WHERE node = ? AND boot = ?`,
	}
	if len(parts) < limit {
		statements = append(statements, `DELETE FROM ended_boots WHERE node = ? AND boot = ?`)
		gone.Boots = 1
	}
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement, string(b.node), b.boot); err != nil {
			return gone, err
		}
	}
	_, err = tx.ExecContext(ctx, `DELETE FROM list_parts WHERE node = ?1 AND boot = ?2 AND first_entry IN
		(SELECT first_entry FROM list_parts WHERE node = ?1 AND boot = ?2 ORDER BY first_entry DESC LIMIT ?3)`, string(b.node), b.boot, limit)
	if err != nil {
		return gone, err
	}
	gone.Parts = len(parts)
	return gone, dropContents(ctx, tx, append(parts, logs...))
}

func scanEndedBoot(rows *sql.Rows) (b endedBoot, err error) {
	err = rows.Scan(&b.node, &b.boot)
	return b, err
}

// ExpireTokens implements verifier.RetentionStore.
func (s *Retention) ExpireTokens(ctx context.Context, expiredBy time.Time, limit int) (count int, err error) {
	err = s.db.write(ctx, "expire join tokens", func(tx *sql.Tx) error {
		gone, err := affected(ctx, tx, `DELETE FROM tokens WHERE id IN (SELECT id FROM tokens WHERE expires <= ? ORDER BY expires LIMIT ?)`,
			instant{expiredBy}.nanos(), max(limit, 0))
		count = int(gone)
		return err
	})
	if err != nil {
		return 0, err
	}
	return count, nil
}
