package sqlstore_test

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/verifier"
)

// Two people may number at the same time: a number that is taken, or a hole, would leave some databases without a migration.
func TestMigrationsAreNumberedWithoutHoles(t *testing.T) {
	names, err := sqlstore.Migrations()
	if err != nil || len(names) < 6 {
		t.Fatalf("%v, %v", names, err)
	}
	for i, name := range names {
		if number, _, _ := strings.Cut(path.Base(name), "_"); number != fmt.Sprintf("%04d", i+1) {
			t.Errorf("migration %s is number %d", name, i+1)
		}
	}
}

// schemaOfBoots is the first schema that knows when boots ended.
const schemaOfBoots = 6

// rowsOfStart is what a server of the first schema wrote: a node in its second boot, with the evidence of both.
func rowsOfStart() []string {
	content := attest.SHA256.Sum([]byte("x\n"))
	state := `{"verdict":"Trusted","shown":"Trusted","since":"2026-11-20T12:00:00Z","seq":2,"boot":"boot-2","bootSince":"2026-11-20T12:00:00.5Z","ima":{"position":1},"enrolled":"2026-11-19T12:00:00Z","accepted":7}`
	rows := []string{
		`INSERT INTO nodes (id, version, round_interval, enrolment, state, last_quote) VALUES ('a', 7, 1000000000, '{"address":"host"}', '` + state + `', 'sha256:` + strings.Repeat("2", 64) + `')`,
		`INSERT INTO contents (digest, bytes) VALUES ('` + content.String() + `', x'780a')`,
		`INSERT INTO transitions (node, seq, at, from_verdict, to_verdict, boot, cause, quote, policies, failures)
			VALUES ('a', 1, 1, 'Pending', 'Trusted', 'boot-1', 'round', 'sha256:` + strings.Repeat("1", 64) + `', 'null', 'null')`,
		`INSERT INTO roots (fingerprint, subject, not_after, pem, added, origin) VALUES ('` + content.String() + `', 'CN=Vendor', 1, x'00', 1, 'file')`,
	}
	for _, n := range []string{"1", "2"} {
		rows = append(rows,
			`INSERT INTO quotes (node, digest, boot, at, nonce, packed, bank, mask, position) VALUES ('a', 'sha256:`+strings.Repeat(n, 64)+`', 'boot-`+n+`', 1, 'n', 'r', 11, 1024, 1)`,
			`INSERT INTO list_parts (node, boot, first_entry, entries, content) VALUES ('a', 'boot-`+n+`', 0, 1, '`+content.String()+`')`)
	}
	return rows
}

// A database of each earlier schema, with rows, becomes one that this program works with, and nothing in it is lost.
func TestOpenMigratesEveryEarlierSchema(t *testing.T) {
	names, err := sqlstore.Migrations()
	if err != nil {
		t.Fatal(err)
	}
	for count := 1; count <= len(names); count++ {
		t.Run(fmt.Sprintf("schema %d", count), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "assay.db")
			if err := sqlstore.Before(t.Context(), file, count, rowsOfStart()...); err != nil {
				t.Fatal(err)
			}
			db := open(t, file)
			n, err := db.Nodes().Node(t.Context(), "a")
			if err != nil || n.Version != 7 || n.State.Boot != "boot-2" || n.State.Accepted != 7 || n.Enrolment.Address != "host" || n.Assignment.Owner != "" {
				t.Errorf("node %+v, %v", n, err)
			}
			if history, err := db.Nodes().Transitions(t.Context(), "a", 0, 10); err != nil || len(history) != 1 || history[0].Detail != "" {
				t.Errorf("history %+v, %v", history, err)
			}
			if roots, err := db.Roots().Roots(t.Context()); err != nil || len(roots) != 1 || roots[0].Emulated {
				t.Errorf("roots %+v, %v", roots, err)
			}
			everyNewTable(t, db)
			if count >= schemaOfBoots {
				return // rows that were written past the programs of these schemas say nothing of when boots ended
			}
			expireMigrated(t, db, n)
		})
	}
}

// everyNewTable writes to what later schemas brought.
func everyNewTable(t *testing.T, db *sqlstore.DB) {
	t.Helper()
	err := errors.Join(
		db.Bindings().Bind(t.Context(), verifier.Binding{Agent: "a", Node: api.KubernetesNode{Name: "n", UID: "u"}}),
		db.Roots().AddKey(t.Context(), api.ListedKey{EK: "ek"}),
		db.Reactions().ChangeReactions(t.Context(), func(verifier.ReactionBook) error { return nil }))
	if err != nil {
		t.Error(err)
	}
}

// expireMigrated checks that a boot that ended before the migration can expire, from when the current one began.
func expireMigrated(t *testing.T, db *sqlstore.DB, n verifier.Node) {
	t.Helper()
	began := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	if gone, err := db.Retention().ExpireEvidence(t.Context(), began.Add(-time.Second), 10); err != nil || gone.Boots != 0 {
		t.Errorf("before its time: %+v, %v", gone, err)
	}
	if gone, err := db.Retention().ExpireEvidence(t.Context(), began.Add(time.Second), 10); err != nil || gone.Boots != 1 {
		t.Errorf("after its time: %+v, %v", gone, err)
	}
	if _, err := db.Nodes().List(t.Context(), "a", "boot-1"); !errors.Is(err, verifier.ErrNotFound) {
		t.Errorf("list of the boot that ended: %v", err)
	}
	if list, err := db.Nodes().List(t.Context(), "a", "boot-2"); err != nil || list.Count != 1 {
		t.Errorf("list of the current boot: %+v, %v", list, err)
	}
	if _, err := db.Nodes().Commit(t.Context(), verifier.Commit{Node: n, Expect: n.Version}); err != nil {
		t.Errorf("the node goes on: %v", err)
	}
}
