package sqlstore

import "database/sql"

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
