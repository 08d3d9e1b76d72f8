// Package sqlstoretest gives tests a database.
package sqlstoretest

import (
	"path/filepath"
	"testing"

	"github.com/assay-project/assay/sqlstore"
)

// Open opens an empty database, which lives as long as the test.
func Open(t testing.TB) *sqlstore.DB {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: filepath.Join(t.TempDir(), "assay.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}
