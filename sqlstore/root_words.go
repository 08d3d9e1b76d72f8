package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// AddKey implements verifier.KeyStore.
func (s *Roots) AddKey(ctx context.Context, k api.ListedKey) error {
	return s.db.write(ctx, fmt.Sprintf("list endorsement key %q", k.EK), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO listed_keys (ek, note, added, added_by) VALUES (?, ?, ?, ?) ON CONFLICT (ek) DO NOTHING`,
			string(k.EK), k.Note, instant{k.Added}.nanos(), k.By)
		return err
	})
}

// Keys implements verifier.KeyStore.
func (s *Roots) Keys(ctx context.Context) (list []api.ListedKey, err error) {
	err = s.db.read(ctx, "read listed endorsement keys", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanKey, `SELECT ek, note, added, added_by FROM listed_keys ORDER BY ek`)
		return err
	})
	return list, err
}

// RemoveKey implements verifier.KeyStore.
func (s *Roots) RemoveKey(ctx context.Context, ek attest.AgentID) error {
	return s.db.write(ctx, fmt.Sprintf("remove endorsement key %q", ek), func(tx *sql.Tx) error {
		removed, err := affected(ctx, tx, `DELETE FROM listed_keys WHERE ek = ?`, string(ek))
		if err == nil && removed == 0 {
			err = verifier.ErrNotFound
		}
		return err
	})
}

// Distrust implements verifier.DistrustStore.
func (s *Roots) Distrust(ctx context.Context, d verifier.Distrusted) error {
	return s.db.write(ctx, fmt.Sprintf("distrust root %s", d.Fingerprint), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO distrusted_roots (fingerprint, at) VALUES (?, ?) ON CONFLICT (fingerprint) DO NOTHING`,
			d.Fingerprint.String(), instant{d.At}.nanos())
		return err
	})
}

// Distrusted implements verifier.DistrustStore.
func (s *Roots) Distrusted(ctx context.Context) (list []verifier.Distrusted, err error) {
	err = s.db.read(ctx, "read distrusted roots", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanDistrusted, `SELECT fingerprint, at FROM distrusted_roots ORDER BY fingerprint`)
		return err
	})
	return list, err
}

func scanKey(rows *sql.Rows) (k api.ListedKey, err error) {
	var added instant
	err = rows.Scan(&k.EK, &k.Note, &added, &k.By)
	k.Added = added.Time
	return k, err
}

func scanDistrusted(rows *sql.Rows) (d verifier.Distrusted, err error) {
	var fingerprint digest
	var at instant
	err = rows.Scan(&fingerprint, &at)
	d.Fingerprint, d.At = fingerprint.Digest, at.Time
	return d, err
}
