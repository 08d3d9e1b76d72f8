package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/verifier"
)

// Tokens implements verifier.TokenStore and registrar.Tokens: persons make join tokens through the one, agents redeem them
// through the other.
type Tokens struct{ db *DB }

// Tokens returns the join tokens of the database.
func (db *DB) Tokens() *Tokens { return &Tokens{db} }

// AddToken implements verifier.TokenStore.
func (s *Tokens) AddToken(ctx context.Context, t verifier.Token) error {
	if t.SecretDigest.Hash() != attest.SHA256 {
		return fmt.Errorf("add token %q: the digest of its secret is %q, not SHA-256", t.ID, t.SecretDigest)
	}
	return s.db.write(ctx, fmt.Sprintf("add token %q", t.ID), func(tx *sql.Tx) error {
		added, err := affected(ctx, tx, `INSERT INTO tokens (id, created, expires, agent, secret_digest) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`,
			t.ID, instant{t.Created}.nanos(), instant{t.Expires}.nanos(), string(t.Agent), t.SecretDigest.String())
		if err == nil && added == 0 {
			err = verifier.ErrExists
		}
		return err
	})
}

// Tokens implements verifier.TokenStore.
func (s *Tokens) Tokens(ctx context.Context) (list []verifier.Token, err error) {
	err = s.db.read(ctx, "list tokens", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanToken, `SELECT id, created, expires, agent, secret_digest FROM tokens ORDER BY created, id`)
		return err
	})
	return list, err
}

// RevokeToken implements verifier.TokenStore.
func (s *Tokens) RevokeToken(ctx context.Context, id string) error {
	return s.db.write(ctx, fmt.Sprintf("revoke token %q", id), func(tx *sql.Tx) error {
		removed, err := affected(ctx, tx, `DELETE FROM tokens WHERE id = ?`, id)
		if err == nil && removed == 0 {
			err = verifier.ErrNotFound
		}
		return err
	})
}

// Redeem implements registrar.Tokens.
func (s *Tokens) Redeem(ctx context.Context, token string, secret []byte, agent attest.AgentID) error {
	return s.db.write(ctx, fmt.Sprintf("redeem token %q for agent %q", token, agent), func(tx *sql.Tx) error {
		t, err := one(ctx, tx, fmt.Errorf("%w: it is unknown", registrar.ErrToken), scanToken,
			`SELECT id, created, expires, agent, secret_digest FROM tokens WHERE id = ?`, token)
		if err != nil {
			return err
		}
		if err := redeemable(t, secret, agent, s.db.now()); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE tokens SET agent = ? WHERE id = ?`, string(agent), token)
		return err
	})
}

// redeemable looks at the secret first: who does not have it learns nothing of the token's use. Digests of random secrets are
// compared, so the time that the comparison takes tells an attacker nothing that he could choose.
func redeemable(t verifier.Token, secret []byte, agent attest.AgentID, now time.Time) error {
	switch {
	case attest.SHA256.Sum(secret) != t.SecretDigest:
		return fmt.Errorf("%w: its secret is wrong", registrar.ErrToken)
	case !now.Before(t.Expires):
		return fmt.Errorf("%w: it expired at %s", registrar.ErrToken, t.Expires.Format(time.RFC3339))
	case t.Agent != "" && t.Agent != agent:
		return fmt.Errorf("%w: another agent redeemed it", registrar.ErrToken)
	case agent == "":
		return fmt.Errorf("%w: no agent redeems it", registrar.ErrToken)
	}
	return nil
}

func scanToken(rows *sql.Rows) (t verifier.Token, err error) {
	var created, expires instant
	var secret digest
	err = rows.Scan(&t.ID, &created, &expires, &t.Agent, &secret)
	t.Created, t.Expires, t.SecretDigest = created.Time, expires.Time, secret.Digest
	return t, err
}
