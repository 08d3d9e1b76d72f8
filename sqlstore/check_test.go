package sqlstore_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/sqlstore"
)

// clocked is a database whose clock the test moves.
func clocked(t *testing.T, path string) (*sqlstore.DB, func(time.Duration)) {
	t.Helper()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	db, err := sqlstore.Open(t.Context(), sqlstore.Config{Path: path, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db, func(d time.Duration) { now = now.Add(d) }
}

// TestCheckFullVolume fills a real volume: the database still reads, and Check says all the same that it cannot be written. With room again all is
// well, a second later.
func TestCheckFullVolume(t *testing.T) {
	need.Root(t)
	folder := t.TempDir()
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	db, pass := clocked(t, filepath.Join(folder, "assay.db"))
	if err := db.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(folder, "ballast")
	if err := os.WriteFile(ballast, bytes.Repeat([]byte{1}, 8<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the volume is not full: %v", err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("asked again at once, it wrote: %v", err)
	}
	pass(time.Minute)
	for range 2 { // a failure is not remembered as a success
		if err := db.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "full") || !strings.Contains(err.Error(), folder) {
			t.Errorf("a full volume: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(t.Context()); err == nil {
		t.Error("asked again at once after a failure, it wrote")
	}
	pass(time.Second)
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestCheckWaitsItsTurn: while another writer is at work, such as a backup, nothing is wrong for a while. A minute without a turn is; one in which
// nobody asked is none.
func TestCheckWaitsItsTurn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	db, pass := clocked(t, path)
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	impatient := func() error { // finds no turn: a slow disk may need longer for a write that does
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		return db.Check(ctx)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	busy, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	pass(time.Hour)
	if err := impatient(); err != nil {
		t.Errorf("the first one to wait, long after a good one: %v", err)
	}
	pass(50 * time.Second)
	if err := impatient(); err != nil {
		t.Errorf("still waiting: %v", err)
	}
	pass(20 * time.Second)
	if err := impatient(); err == nil {
		t.Error("a minute without a turn is taken for good")
	}
	if err := busy.Rollback(); err != nil {
		t.Fatal(err)
	}
	pass(time.Second)
	if err := db.Check(t.Context()); err != nil {
		t.Errorf("with its turn: %v", err)
	}
	if busy, err = other.BeginTx(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Rollback() }()
	pass(20 * time.Second)
	if err := impatient(); err != nil {
		t.Errorf("it counts from the wait before: %v", err)
	}
}

func TestCheckSaysThatItCouldNotRead(t *testing.T) {
	db, _ := clocked(t, filepath.Join(t.TempDir(), "assay.db"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := db.Check(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "assay.db") {
		t.Errorf("under an ended context: %v", err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
}
