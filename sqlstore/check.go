package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

// writeCheckEvery is the least time between two trial writes that succeed: each of them waits for the disk.
const writeCheckEvery = 10 * time.Second

// trial remembers when a write was last tried and went well.
type trial struct {
	mu   sync.Mutex
	last time.Time
}

// Check says what is wrong with the database: it reads, and every now and then writes something that changes nothing, because a full or
// read-only volume still reads. After a failure each call tries to write. The error is for people; it names the file.
func (db *DB) Check(ctx context.Context) error {
	var version int
	err := db.read(ctx, "read", func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version) })
	if err != nil {
		return fmt.Errorf("database %s: %w", db.path, err)
	}
	db.trial.mu.Lock()
	defer db.trial.mu.Unlock()
	now := db.now()
	if !db.trial.last.IsZero() && now.Sub(db.trial.last).Abs() < writeCheckEvery {
		return nil
	}
	db.trial.last = time.Time{}
	err = db.write(ctx, "write", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)) // a pragma takes no parameter
		return err
	})
	if err != nil {
		return fmt.Errorf("database %s: %w", db.path, err)
	}
	db.trial.last = now
	return nil
}
