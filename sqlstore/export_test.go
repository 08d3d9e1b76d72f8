package sqlstore

import (
	"context"
	"database/sql"
	"io/fs"
	"path"
	"testing/fstest"

	"github.com/pressly/goose/v3"
)

// Before makes the database that a program of an earlier schema left behind: the first count migrations, then statements.
func Before(ctx context.Context, file string, count int, statements ...string) (err error) {
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return err
	}
	defer db.Close()
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	files := fstest.MapFS{}
	for _, name := range names[:count] {
		text, err := fs.ReadFile(migrations, name)
		if err != nil {
			return err
		}
		files[path.Base(name)] = &fstest.MapFile{Data: text}
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	if _, err := provider.Up(ctx); err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// Migrations returns the names of the migrations in their order.
func Migrations() ([]string, error) { return fs.Glob(migrations, "migrations/*.sql") }

// OnCommit puts commit in place of the real one; tests make it fail before or after.
func (db *DB) OnCommit(commit func(*sql.Tx) error) { db.commit = commit }

// Exec runs a statement past the methods: what a bug, a person or a newer version might do.
func (db *DB) Exec(statement string) error {
	_, err := db.writer.Exec(statement)
	return err
}

// Pragmas returns the settings of the writing connection.
func (db *DB) Pragmas() (journal string, synchronous, foreignKeys int, err error) {
	if err = db.writer.QueryRow(`PRAGMA journal_mode`).Scan(&journal); err == nil {
		err = db.writer.QueryRow(`PRAGMA synchronous`).Scan(&synchronous)
	}
	if err == nil {
		err = db.writer.QueryRow(`PRAGMA foreign_keys`).Scan(&foreignKeys)
	}
	return journal, synchronous, foreignKeys, err
}

// Count returns the number of rows of a table.
func (db *DB) Count(table string) (n int, err error) {
	err = db.reader.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n)
	return n, err
}

// WriteByReader tries to write through the readers' connections.
func (db *DB) WriteByReader() error {
	_, err := db.reader.Exec(`DELETE FROM tokens`)
	return err
}
