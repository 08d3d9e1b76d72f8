package sqlstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/sqlstore"
)

func TestOpenMakesAPrivateDurableDatabase(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a b%20?#ü") // a path is no URL
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	db := open(t, filepath.Join(folder, "assay.db"))
	journal, synchronous, foreignKeys, err := db.Pragmas()
	if err != nil || journal != "wal" || synchronous != 2 || foreignKeys != 1 {
		t.Errorf("journal %q, synchronous %d, foreign keys %d, %v", journal, synchronous, foreignKeys, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 2 { // the database and its log at least
		t.Errorf("the database lies elsewhere: %v", entries)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", entry.Name(), info.Mode().Perm())
		}
	}
	if err := db.WriteByReader(); err == nil || !strings.Contains(err.Error(), "readonly") {
		t.Errorf("a reader wrote: %v", err)
	}
}

func TestOpenAgainFindsWhatWasStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	first, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	want := insertNode(t, first, "a")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := open(t, path).Nodes().Node(t.Context(), "a")
	if err != nil || got.Version != want {
		t.Errorf("version %d, %v", got.Version, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, row := range map[string]struct{ path, want string }{
		"a file that is no database": {text, "not a database"},
		"a missing directory":        {filepath.Join(t.TempDir(), "none", "assay.db"), "no such file"},
		"a directory":                {t.TempDir(), "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: row.path})
			if err == nil {
				t.Fatal(errors.Join(errors.New("opened"), db.Close()))
			}
			if !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), row.path) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
}

func TestOpenRefusesDatabaseOfANewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	insertNode(t, db, "a")
	if err := db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = sqlstore.Open(t.Context(), sqlstore.Config{Path: path})
	if !errors.Is(err, sqlstore.ErrNewer) || !strings.Contains(err.Error(), "9999") || !strings.Contains(err.Error(), path) {
		t.Errorf("have %v", err)
	}
}

// A migration that was interrupted must neither be taken for done nor be in the way of the next start.
func TestOpenAfterInterruptedMigration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if db, err := sqlstore.Open(ctx, sqlstore.Config{Path: path}); err == nil {
		t.Fatal(errors.Join(errors.New("opened under an ended context"), db.Close()))
	}
	insertNode(t, open(t, path), "a")
}
