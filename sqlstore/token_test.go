package sqlstore_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/verifier"
)

func TestRedeem(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "assay.db"), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	secret := []byte("0123456789abcdef")
	token := verifier.Token{ID: "t", Created: now, Expires: now.Add(time.Hour), SecretDigest: attest.SHA256.Sum(secret)}
	if err := db.Tokens().AddToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name, token, secret, agent string
		after                      time.Duration
		want                       string // "" succeeds
	}{
		{"unknown", "x", string(secret), "a", 0, "unknown"},
		{"wrong secret", "t", "0123456789abcdeF", "a", 0, "secret is wrong"},
		{"no secret", "t", "", "a", 0, "secret is wrong"},
		{"nobody", "t", string(secret), "", 0, "no agent"},
		{"too late", "t", string(secret), "a", time.Hour, "expired"},
		{"in time", "t", string(secret), "a", time.Hour - 1, ""},
		{"again", "t", string(secret), "a", 0, ""},
		{"another agent", "t", string(secret), "b", 0, "another agent"},
		{"another agent without the secret", "t", "x", "b", 0, "secret is wrong"},
		{"again, too late", "t", string(secret), "a", 2 * time.Hour, "expired"},
	} {
		t.Run(row.name, func(t *testing.T) {
			now = token.Created.Add(row.after)
			err := db.Tokens().Redeem(t.Context(), row.token, []byte(row.secret), attest.AgentID(row.agent))
			if row.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, registrar.ErrToken) || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
			if strings.Contains(err.Error(), string(secret)) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
	list, err := db.Tokens().Tokens(t.Context())
	if err != nil || len(list) != 1 || list[0].Agent != "a" {
		t.Errorf("tokens %v, %v", list, err)
	}
	weak := verifier.Token{ID: "w", SecretDigest: attest.SHA1.Sum(secret)}
	if err := db.Tokens().AddToken(t.Context(), weak); err == nil {
		t.Error("a token whose secret is hashed by SHA-1 was stored")
	}
}
