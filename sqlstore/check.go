package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

const (
	// writeCheckEvery is the least time between two trial writes that succeed: each of them waits for the disk.
	writeCheckEvery = 10 * time.Second
	// writePatience is how long trial writes may find no turn before that is a fault: under load writers stand in a queue.
	writePatience = time.Minute
)

// trial remembers when a write was last tried and went well.
type trial struct {
	mu      sync.Mutex
	good    time.Time
	waiting time.Time // since when no trial found its turn; zero where the last one did
	failing bool
}

// Check says what is wrong with the database: it reads, and every now and then writes something that changes nothing, because a full or
// read-only volume still reads. After a failure each call tries to write. A write that only found no turn before ctx ended is no fault until writes have
// waited for a minute. The error is for people; it names the file.
func (db *DB) Check(ctx context.Context) error {
	var version int
	err := db.read(ctx, "read", func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version) })
	if err != nil {
		return fmt.Errorf("database %s: %w", db.path, err)
	}
	db.trial.mu.Lock()
	defer db.trial.mu.Unlock()
	now := db.now()
	if !db.trial.failing && db.trial.waiting.IsZero() && now.Sub(db.trial.good).Abs() < writeCheckEvery {
		return nil
	}
	err = db.write(ctx, "write", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)) // a pragma takes no parameter
		return err
	})
	switch {
	case err == nil:
		db.trial.good, db.trial.waiting, db.trial.failing = now, time.Time{}, false
		return nil
	case ctx.Err() == nil:
		db.trial.waiting, db.trial.failing = time.Time{}, true
	case !db.trial.failing:
		if db.trial.waiting.IsZero() {
			db.trial.waiting = now
		}
		if now.Sub(db.trial.waiting).Abs() < writePatience {
			return nil
		}
	}
	return fmt.Errorf("database %s: %w", db.path, err)
}
