package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite", in Go: docs/adr/0002-sqlite-driver.md
)

const (
	// maxReaders bounds the connections that read; each has its own page cache.
	maxReaders = 4
	// busyTimeout is how long SQLite waits for another process, such as a backup.
	busyTimeout = 10 * time.Second
)

// Config says which database to open.
type Config struct {
	// Path is the SQLite file; it is made with mode 0600 if it is missing. Its directory must exist.
	Path string
	// Now is the clock by which join tokens expire; nil is time.Now.
	Now func() time.Time
}

// DB is an open database of the newest schema.
type DB struct {
	writer *sql.DB // one connection: its pool is the queue of writers, so that none of them sees SQLITE_BUSY
	reader *sql.DB // query_only
	path   string
	now    func() time.Time
	commit func(*sql.Tx) error // (*sql.Tx).Commit; tests make it fail before and after
	trial  trial
}

// Open opens or makes the database and brings its schema up to date. It refuses a database of a newer version (ErrNewer).
func Open(ctx context.Context, cfg Config) (*DB, error) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	// SQLite would make the file readable for everybody; its log and index files take over the mode of this one.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	db := &DB{path: path, now: cfg.Now, commit: (*sql.Tx).Commit}
	if db.now == nil {
		db.now = time.Now
	}
	if db.writer, err = pool(path, 1, "immediate", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"); err != nil {
		return nil, err
	}
	if err := migrate(ctx, db.writer); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), db.writer.Close())
	}
	db.trial.good = db.now() // the migrations wrote
	if db.reader, err = pool(path, maxReaders, "deferred", "query_only(1)"); err != nil {
		return nil, errors.Join(err, db.writer.Close())
	}
	return db, nil
}

func pool(path string, connections int, lock string, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {lock}, "_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())}}
	for _, pragma := range pragmas {
		query.Add("_pragma", pragma)
	}
	name := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", name.String())
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}

// Close waits for transactions under way and closes the database.
func (db *DB) Close() error {
	if err := errors.Join(db.reader.Close(), db.writer.Close()); err != nil {
		return fmt.Errorf("close database: %w", err)
	}
	return nil
}

// write runs change in a transaction that no other writer overlaps; it commits if change returns nil. An error of the commit itself
// leaves open whether it was stored; callers find out by reading again. change must not call write: it would wait for itself.
func (db *DB) write(ctx context.Context, doing string, change func(*sql.Tx) error) error {
	return db.transact(ctx, db.writer, doing, change)
}

// read runs look on one snapshot.
func (db *DB) read(ctx context.Context, doing string, look func(*sql.Tx) error) error {
	return db.transact(ctx, db.reader, doing, look)
}

func (db *DB) transact(ctx context.Context, pool *sql.DB, doing string, do func(*sql.Tx) error) error {
	tx, err := pool.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("%s: begin: %w", doing, err)
	}
	// After a commit this does nothing. A panic in do must not keep the only writing connection.
	defer func() { _ = tx.Rollback() }()
	if err := do(tx); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := db.commit(tx); err != nil {
		return fmt.Errorf("%s: commit: %w", doing, err)
	}
	return nil
}
