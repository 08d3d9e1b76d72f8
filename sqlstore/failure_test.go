package sqlstore_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

var errInjected = errors.New("injected")

// notStored and storedButFailed are the two ways in which a commit fails.
func notStored(*sql.Tx) error { return errInjected }

func storedButFailed(tx *sql.Tx) error { return errors.Join(errInjected, tx.Commit()) }

func newDB(t *testing.T) *sqlstore.DB {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "assay.db"))
}

func insertNode(t *testing.T, db *sqlstore.DB, id attest.AgentID) (version uint64) {
	t.Helper()
	version, err := db.Nodes().Commit(t.Context(), verifier.Commit{Node: verifier.Node{ID: id, State: machine.State{Seq: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// step is what a round writes: the row, the list, the quote and a transition.
func step(version uint64) verifier.Commit {
	q := attest.SHA256.Sum([]byte("q"))
	return verifier.Commit{
		Node: verifier.Node{ID: "a", State: machine.State{Seq: 2, Boot: "boot"}}, Expect: version, BootLog: []byte("log"),
		Chunks:     []machine.Chunk{{Boot: "boot", Count: 1, ASCII: []byte("x\n")}},
		Quotes:     []machine.StoredQuote{{Digest: q, Boot: "boot"}},
		Transition: &machine.Transition{Seq: 2, Node: "a", To: attest.Trusted, Quote: q},
	}
}

func TestCommitThatWasNotStoredCanBeRepeated(t *testing.T) {
	db := newDB(t)
	version := insertNode(t, db, "a")
	db.OnCommit(notStored)
	if _, err := db.Nodes().Commit(t.Context(), step(version)); !errors.Is(err, errInjected) {
		t.Fatalf("have %v", err)
	}
	db.OnCommit((*sql.Tx).Commit)
	if node, err := db.Nodes().Node(t.Context(), "a"); err != nil || node.Version != version {
		t.Fatalf("version %d, %v", node.Version, err)
	}
	if _, err := db.Nodes().Commit(t.Context(), step(version)); err != nil {
		t.Error(err)
	}
}

// The writer believes that nothing was stored and writes the same step again. It must learn of the conflict, and after reading
// again find its step there once.
func TestCommitThatWasStoredButReportedAsFailedIsNotDoneTwice(t *testing.T) {
	db := newDB(t)
	version := insertNode(t, db, "a")
	db.OnCommit(storedButFailed)
	if _, err := db.Nodes().Commit(t.Context(), step(version)); !errors.Is(err, errInjected) {
		t.Fatalf("have %v", err)
	}
	db.OnCommit((*sql.Tx).Commit)
	if _, err := db.Nodes().Commit(t.Context(), step(version)); !errors.Is(err, verifier.ErrConflict) {
		t.Errorf("repeated: %v", err)
	}
	node, err := db.Nodes().Node(t.Context(), "a")
	if err != nil || node.Version != version+1 || node.State.Seq != 2 {
		t.Errorf("read again: %+v, %v", node, err)
	}
	list, err := db.Nodes().List(t.Context(), "a", "boot")
	if err != nil || list.Count != 1 {
		t.Errorf("list %+v, %v", list, err)
	}
	history, err := db.Nodes().Transitions(t.Context(), "a", 0, 10)
	if err != nil || len(history) != 1 {
		t.Errorf("history %+v, %v", history, err)
	}
}

// Every other write: a failure leaves nothing, or all of it; and repeating it ends where one success would have.
func TestWritesThatFailTwice(t *testing.T) {
	policy := verifier.StoredPolicy{Ref: attest.PolicyRef{Name: "p", Digest: attest.SHA256.Sum(nil)}}
	secret := []byte("0123456789abcdef")
	token := verifier.Token{ID: "t", Expires: time.Now().Add(time.Hour), SecretDigest: attest.SHA256.Sum(secret)}
	root := verifier.Root{Fingerprint: attest.SHA256.Sum(nil)}
	for name, row := range map[string]struct {
		prepare func(ctx context.Context, db *sqlstore.DB) error
		write   func(ctx context.Context, db *sqlstore.DB) error
		again   error // what repeating gives after it was stored
		table   string
		change  int // in the number of the table's rows
	}{
		"enrol": {nil, func(ctx context.Context, db *sqlstore.DB) error {
			_, err := db.Nodes().Commit(ctx, verifier.Commit{Node: verifier.Node{ID: "a"}})
			return err
		}, verifier.ErrExists, "nodes", 1},
		"remove node": {func(ctx context.Context, db *sqlstore.DB) error {
			_, err := db.Nodes().Commit(ctx, verifier.Commit{Node: verifier.Node{ID: "a"}})
			return err
		}, func(ctx context.Context, db *sqlstore.DB) error { return db.Nodes().RemoveNode(ctx, "a", 1) }, verifier.ErrNotFound, "nodes", -1},
		"add policy": {nil, func(ctx context.Context, db *sqlstore.DB) error { return db.Policies().AddPolicy(ctx, policy) }, nil, "policies", 1},
		"remove policy": {func(ctx context.Context, db *sqlstore.DB) error { return db.Policies().AddPolicy(ctx, policy) },
			func(ctx context.Context, db *sqlstore.DB) error {
				return db.Policies().RemovePolicy(ctx, policy.Ref.Digest)
			}, verifier.ErrNotFound, "policies", -1},
		"add root": {nil, func(ctx context.Context, db *sqlstore.DB) error { return db.Roots().AddRoot(ctx, root) }, nil, "roots", 1},
		"remove root": {func(ctx context.Context, db *sqlstore.DB) error { return db.Roots().AddRoot(ctx, root) },
			func(ctx context.Context, db *sqlstore.DB) error { return db.Roots().RemoveRoot(ctx, root.Fingerprint) }, verifier.ErrNotFound, "roots", -1},
		"add token": {nil, func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().AddToken(ctx, token) }, verifier.ErrExists, "tokens", 1},
		"revoke token": {func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().AddToken(ctx, token) },
			func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().RevokeToken(ctx, "t") }, verifier.ErrNotFound, "tokens", -1},
		"redeem token": {func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().AddToken(ctx, token) },
			func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().Redeem(ctx, "t", secret, "a") }, nil, "tokens WHERE agent = 'a'", 1},
		"expire evidence": {func(ctx context.Context, db *sqlstore.DB) error {
			if _, err := db.Nodes().Commit(ctx, verifier.Commit{Node: verifier.Node{ID: "a"}}); err != nil {
				return err
			}
			c := step(1)
			c.Node.State.BootSince = time.Unix(1, 0)
			if _, err := db.Nodes().Commit(ctx, c); err != nil {
				return err
			}
			c.Node.State.Boot = "next"
			_, err := db.Nodes().Commit(ctx, verifier.Commit{Node: c.Node, Expect: 2, Quotes: []machine.StoredQuote{{Digest: attest.SHA256.Sum(nil), Boot: "next"}}})
			return err
		}, func(ctx context.Context, db *sqlstore.DB) error {
			_, err := db.Retention().ExpireEvidence(ctx, time.Unix(1, 0), 10)
			return err
		}, nil, "contents", -2},
		"expire tokens": {func(ctx context.Context, db *sqlstore.DB) error { return db.Tokens().AddToken(ctx, token) },
			func(ctx context.Context, db *sqlstore.DB) error {
				_, err := db.Retention().ExpireTokens(ctx, token.Expires, 10)
				return err
			}, nil, "tokens", -1},
		"update registration": {nil, func(ctx context.Context, db *sqlstore.DB) error {
			return db.Registrations().Update(ctx, "a", func(*registrar.Record) (*registrar.Record, error) {
				return &registrar.Record{ID: "a", EK: "ek", Active: &registrar.Registration{}}, nil
			})
		}, nil, "registrations", 1},
		"sweep registrations": {func(ctx context.Context, db *sqlstore.DB) error {
			return db.Registrations().Update(ctx, "a", func(*registrar.Record) (*registrar.Record, error) {
				return &registrar.Record{ID: "a", Challenges: []registrar.Challenge{{Expires: time.Unix(1, 0)}}}, nil
			})
		}, func(ctx context.Context, db *sqlstore.DB) error {
			_, err := db.Registrations().Sweep(ctx, time.Unix(2, 0))
			return err
		}, nil, "registrations", -1},
		"displace registration": {func(ctx context.Context, db *sqlstore.DB) error {
			return db.Registrations().Update(ctx, "a", func(*registrar.Record) (*registrar.Record, error) {
				return &registrar.Record{ID: "a", Challenges: []registrar.Challenge{{Expires: time.Unix(1, 0), From: "x"}}}, nil
			})
		}, func(ctx context.Context, db *sqlstore.DB) error {
			_, err := db.Registrations().Displace(ctx, "y")
			return err
		}, nil, "registrations", -1},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			if row.prepare != nil {
				if err := row.prepare(t.Context(), db); err != nil {
					t.Fatal(err)
				}
			}
			before := count(t, db, row.table)
			db.OnCommit(notStored)
			if err := row.write(t.Context(), db); !errors.Is(err, errInjected) || count(t, db, row.table) != before {
				t.Errorf("not stored: %v, %d rows", err, count(t, db, row.table))
			}
			db.OnCommit(storedButFailed)
			if err := row.write(t.Context(), db); !errors.Is(err, errInjected) || count(t, db, row.table) != before+row.change {
				t.Errorf("stored: %v, %d rows", err, count(t, db, row.table))
			}
			db.OnCommit((*sql.Tx).Commit)
			if err := row.write(t.Context(), db); !errors.Is(err, row.again) || count(t, db, row.table) != before+row.change {
				t.Errorf("again: %v, %d rows", err, count(t, db, row.table))
			}
		})
	}
}

func count(t *testing.T, db *sqlstore.DB, table string) int {
	t.Helper()
	n, err := db.Count(table)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Two handles stand for a server and a program that looks into its database: both write, and neither sees SQLITE_BUSY.
func TestTwoHandlesWriteWithoutBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assay.db")
	handles := []*sqlstore.DB{open(t, path), open(t, path)}
	const each = 30
	var running sync.WaitGroup
	for _, db := range handles {
		for range 2 {
			running.Go(func() {
				for range each {
					err := db.Registrations().Update(t.Context(), "a", func(old *registrar.Record) (*registrar.Record, error) {
						if old == nil {
							old = &registrar.Record{ID: "a", Active: &registrar.Registration{}}
						}
						old.Count++
						return old, nil
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	running.Wait()
	record, err := handles[0].Registrations().Get(t.Context(), "a")
	if err != nil || record.Count != 4*each {
		t.Errorf("counted %d of %d, %v", record.Count, 4*each, err)
	}
}

func TestWriterIsFreeAfterPanicAndAfterCancelledWait(t *testing.T) {
	db := newDB(t)
	update := func(ctx context.Context, change func()) error {
		return db.Registrations().Update(ctx, "a", func(old *registrar.Record) (*registrar.Record, error) {
			change()
			return old, nil
		})
	}
	func() {
		defer func() { _ = recover() }()
		_ = update(t.Context(), func() { panic("bug") })
	}()
	err := update(t.Context(), func() {
		waiting, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := update(waiting, func() {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second writer did not wait: %v", err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReadersSeeASnapshotBesideAWriter(t *testing.T) {
	db := newDB(t)
	insertNode(t, db, "a")
	err := db.Registrations().Update(t.Context(), "a", func(*registrar.Record) (*registrar.Record, error) {
		_, err := db.Nodes().Node(t.Context(), "a")
		return nil, err
	})
	if err != nil {
		t.Errorf("a reader waits for the writer: %v", err)
	}
}

// Evidence that rotted on the disk must not be taken for the evidence that was accepted.
func TestDamagedEvidenceIsAnError(t *testing.T) {
	for name, row := range map[string]struct{ damage, want string }{
		"other bytes":     {`UPDATE contents SET bytes = x'00'`, "hashes to"},
		"part is missing": {`DELETE FROM list_parts WHERE first_entry = 0`, "are missing"},
		"state is broken": {`UPDATE nodes SET state = '{'`, "document column"},
	} {
		t.Run(name, func(t *testing.T) {
			db := newDB(t)
			c := step(insertNode(t, db, "a"))
			c.Chunks = append(c.Chunks, machine.Chunk{Boot: "boot", First: 1, Count: 1, ASCII: []byte("y\n")})
			if _, err := db.Nodes().Commit(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			read := func() error {
				_, list := db.Nodes().List(t.Context(), "a", "boot")
				_, node := db.Nodes().Node(t.Context(), "a")
				return errors.Join(list, node)
			}
			if err := read(); err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			if err := db.Exec(row.damage); err != nil {
				t.Fatal(err)
			}
			if err := read(); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
}

func TestNoContentIsLeftWithoutAnOwner(t *testing.T) {
	db := newDB(t)
	version := insertNode(t, db, "a")
	c := step(version)
	if _, err := db.Nodes().Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	replaced := verifier.Commit{Node: c.Node, Expect: version + 1, BootLog: []byte("new"), Chunks: []machine.Chunk{{Boot: "boot", Count: 1, ASCII: []byte("z\n")}}}
	if _, err := db.Nodes().Commit(t.Context(), replaced); err != nil {
		t.Fatal(err)
	}
	if n := count(t, db, "contents"); n != 2 {
		t.Errorf("%d contents after both were replaced", n)
	}
	if err := db.Nodes().RemoveNode(t.Context(), "a", version+2); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"contents", "quotes", "transitions", "node_policies", "list_parts", "boot_logs"} {
		if n := count(t, db, table); n != 0 {
			t.Errorf("%d rows are left in %s", n, table)
		}
	}
}
