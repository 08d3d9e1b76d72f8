package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// Policies implements verifier.PolicyStore.
type Policies struct{ db *DB }

// Policies returns the policy documents of the database.
func (db *DB) Policies() *Policies { return &Policies{db} }

// AddPolicy implements verifier.PolicyStore.
func (s *Policies) AddPolicy(ctx context.Context, p verifier.StoredPolicy) error {
	if p.Ref.Digest.IsZero() {
		return fmt.Errorf("add policy %q: it has no digest", p.Ref.Name)
	}
	return s.db.write(ctx, fmt.Sprintf("add policy %q", p.Ref.Name), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO policies (digest, kind, name, added, size, document) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO NOTHING`,
			p.Ref.Digest.String(), p.Ref.Kind, p.Ref.Name, instant{p.Added}.nanos(), len(p.Bytes), nonNil(p.Bytes))
		return err
	})
}

// Policy implements verifier.PolicyStore.
func (s *Policies) Policy(ctx context.Context, nameOrDigest string) (p verifier.StoredPolicy, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read policy %q", nameOrDigest), func(tx *sql.Tx) error {
		column := "name"
		if d, err := attest.ParseDigest(nameOrDigest); err == nil {
			column, nameOrDigest = "digest", d.String() // whatever the case of its digits
		}
		p, err = one(ctx, tx, verifier.ErrNotFound, scanPolicyWithBytes,
			`SELECT digest, kind, name, added, size, document FROM policies WHERE `+column+` = ? ORDER BY ordinal DESC LIMIT 1`, nameOrDigest)
		return err
	})
	return p, err
}

// Policies implements verifier.PolicyStore.
func (s *Policies) Policies(ctx context.Context, after attest.Digest, limit int) (list []verifier.StoredPolicy, err error) {
	err = s.db.read(ctx, "list policies", func(tx *sql.Tx) error {
		var from int64
		if !after.IsZero() {
			if from, err = policyOrdinal(ctx, tx, after); err != nil {
				return err
			}
		}
		list, err = query(ctx, tx, scanPolicy, `SELECT digest, kind, name, added, size FROM policies WHERE ordinal > ? ORDER BY ordinal LIMIT ?`, from, max(limit, 0))
		return err
	})
	return list, err
}

// RemovePolicy implements verifier.PolicyStore.
func (s *Policies) RemovePolicy(ctx context.Context, which attest.Digest) error {
	return s.db.write(ctx, fmt.Sprintf("remove policy %s", which), func(tx *sql.Tx) error {
		users, err := query(ctx, tx, text, `SELECT node FROM node_policies WHERE policy = ? ORDER BY node LIMIT 1`, which.String())
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return fmt.Errorf("%w: node %q has it assigned", verifier.ErrInUse, users[0])
		}
		removed, err := affected(ctx, tx, `DELETE FROM policies WHERE digest = ?`, which.String())
		if err == nil && removed == 0 {
			err = verifier.ErrNotFound
		}
		return err
	})
}

func policyOrdinal(ctx context.Context, tx *sql.Tx, which attest.Digest) (int64, error) {
	return one(ctx, tx, verifier.ErrNotFound, func(rows *sql.Rows) (n int64, err error) {
		err = rows.Scan(&n)
		return n, err
	}, `SELECT ordinal FROM policies WHERE digest = ?`, which.String())
}

func scanPolicy(rows *sql.Rows) (verifier.StoredPolicy, error) { return scanPolicyAnd(rows, nil) }

func scanPolicyWithBytes(rows *sql.Rows) (verifier.StoredPolicy, error) {
	var bytes []byte
	p, err := scanPolicyAnd(rows, &bytes)
	p.Bytes = bytes
	return p, err
}

// scanPolicyAnd scans the columns of a policy and, if last is not nil, its document.
func scanPolicyAnd(rows *sql.Rows, last *[]byte) (p verifier.StoredPolicy, err error) {
	var d digest
	var added instant
	columns := []any{&d, &p.Ref.Kind, &p.Ref.Name, &added, &p.Size}
	if last != nil {
		columns = append(columns, last)
	}
	err = rows.Scan(columns...)
	p.Ref.Digest, p.Added = d.Digest, added.Time
	return p, err
}

// nonNil keeps empty bytes from becoming NULL.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
