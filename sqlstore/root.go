package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// Roots implements verifier.RootStore.
type Roots struct{ db *DB }

// Roots returns the endorsement roots of the database.
func (db *DB) Roots() *Roots { return &Roots{db} }

// AddRoot implements verifier.RootStore.
func (s *Roots) AddRoot(ctx context.Context, r verifier.Root) error {
	return s.db.write(ctx, fmt.Sprintf("add root %q", r.Subject), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO roots (fingerprint, subject, not_after, pem, added, origin, emulated) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO NOTHING`,
			r.Fingerprint.String(), r.Subject, instant{r.NotAfter}.nanos(), nonNil(r.PEM), instant{r.Added}.nanos(), r.Origin, r.Emulated)
		return err
	})
}

// Roots implements verifier.RootStore.
func (s *Roots) Roots(ctx context.Context) (list []verifier.Root, err error) {
	err = s.db.read(ctx, "list roots", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanRoot, `SELECT fingerprint, subject, not_after, pem, added, origin, emulated FROM roots ORDER BY subject, fingerprint`)
		return err
	})
	return list, err
}

// RemoveRoot implements verifier.RootStore.
func (s *Roots) RemoveRoot(ctx context.Context, fingerprint attest.Digest) error {
	return s.db.write(ctx, fmt.Sprintf("remove root %s", fingerprint), func(tx *sql.Tx) error {
		removed, err := affected(ctx, tx, `DELETE FROM roots WHERE fingerprint = ?`, fingerprint.String())
		if err == nil && removed == 0 {
			err = verifier.ErrNotFound
		}
		return err
	})
}

func scanRoot(rows *sql.Rows) (r verifier.Root, err error) {
	var fingerprint digest
	var notAfter, added instant
	err = rows.Scan(&fingerprint, &r.Subject, &notAfter, &r.PEM, &added, &r.Origin, &r.Emulated)
	r.Fingerprint, r.NotAfter, r.Added = fingerprint.Digest, notAfter.Time, added.Time
	return r, err
}
