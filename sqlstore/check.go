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
	// writeAgainEvery is the least time between two others: whoever may ask makes no writes by asking often.
	writeAgainEvery = time.Second
	// writePatience is how long trial writes may find no turn before that is a fault: under load writers stand in a queue.
	writePatience = time.Minute
)

// trial remembers when a write was last tried and went well.
type trial struct {
	mu      sync.Mutex
	good    time.Time
	waiting time.Time // since when no trial found its turn; zero where the last one did
	failing bool
	// said is what came of the last trial that did not go well, at tried.
	said  error
	tried time.Time
}

// due reports whether to try now, and else what is known.
func (t *trial) due(now time.Time) (bool, error) {
	if t.failing || !t.waiting.IsZero() {
		return now.Sub(t.tried).Abs() >= writeAgainEvery, t.said
	}
	return now.Sub(t.good).Abs() >= writeCheckEvery, nil
}

// missed remembers a trial that did not go well, and says whether that is a fault. turned is whether it had its turn.
func (t *trial) missed(err error, turned bool, now time.Time) error {
	switch {
	case turned:
		t.waiting, t.failing = time.Time{}, true
	case !t.failing && t.waiting.IsZero():
		t.waiting = now
	}
	if t.said, t.tried = err, now; !t.failing && now.Sub(t.waiting).Abs() < writePatience {
		t.said = nil
	}
	return t.said
}

// Check says what is wrong with the database: it reads, and every now and then writes something that changes nothing, because a full or
// read-only volume still reads. After a failure it tries to write again, each second at most. A write that only found no turn before ctx ended
// is no fault until writes have waited for a minute. The error is for people; it names the file.
func (db *DB) Check(ctx context.Context) error {
	var version int
	err := db.read(ctx, "read", func(tx *sql.Tx) error { return tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version) })
	if err != nil {
		return fmt.Errorf("database %s: %w", db.path, err)
	}
	db.trial.mu.Lock()
	defer db.trial.mu.Unlock()
	if due, known := db.trial.due(db.now()); !due {
		return known
	}
	err = db.write(ctx, "write", func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)) // a pragma takes no parameter
		return err
	})
	if err != nil {
		return db.trial.missed(fmt.Errorf("database %s: %w", db.path, err), ctx.Err() == nil, db.now())
	}
	db.trial.good, db.trial.waiting, db.trial.failing = db.now(), time.Time{}, false
	return nil
}
