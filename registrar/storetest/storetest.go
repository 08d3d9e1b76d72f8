// Package storetest holds the contract of registrar.Store as a test that every store passes.
//
// It trusts nothing of a store and looks only through its interface. What a store does on broken disks or networks is left to the store's own tests.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
)

// Run tests a kind of store. newStore makes an empty one for each part.
func Run(t *testing.T, newStore func(t *testing.T) registrar.Store) {
	parts := []struct {
		name string
		run  func(t *testing.T, s registrar.Store)
	}{
		{"absent", testAbsent},
		{"every field", testEveryField},
		{"copies", testCopies},
		{"update", testUpdate},
		{"update that fails", testFailedUpdate},
		{"one EK, one record", testOneEK},
		{"list", testList},
		{"sweep", testSweep},
		{"sweep keeps what is proven", testSweepKeeps},
		{"displace", testDisplace},
		{"concurrent updates", testConcurrent},
		{"cancelled", testCancelled},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) { p.run(t, newStore(t)) })
	}
}

// start is when the tests' records were made.
func start() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC) }

func put(t *testing.T, s registrar.Store, records ...registrar.Record) {
	t.Helper()
	for _, r := range records {
		err := s.Update(t.Context(), r.ID, func(*registrar.Record) (*registrar.Record, error) { return &r, nil })
		if err != nil {
			t.Fatalf("store %s: %v", r.ID, err)
		}
	}
}

func get(t *testing.T, s registrar.Store, id attest.AgentID) registrar.Record {
	t.Helper()
	r, err := s.Get(t.Context(), id)
	if err != nil {
		t.Fatalf("get %s: %v", id, err)
	}
	return r
}

func wantAbsent(t *testing.T, s registrar.Store, id attest.AgentID) {
	t.Helper()
	if r, err := s.Get(t.Context(), id); !errors.Is(err, registrar.ErrNotFound) {
		t.Errorf("get %s: got %+v, %v, want ErrNotFound", id, r, err)
	}
}

func same(t *testing.T, want, got registrar.Record) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func active(id, ek attest.AgentID) registrar.Record {
	return registrar.Record{ID: id, EK: ek, Count: 1, Active: &registrar.Registration{EK: []byte(ek), AK: []byte{1}, EndorsedBy: "CN=root", At: start()}}
}

func waiting(id, ek attest.AgentID, expires time.Time) registrar.Record {
	return registrar.Record{ID: id, EK: ek, Waiting: &registrar.Waiting{
		Registration: registrar.Registration{EK: []byte(ek), AK: []byte{1}, NotEndorsed: "no certificate", At: start()}, Reason: "name", Expires: expires,
	}}
}

func unproven(id attest.AgentID, expires ...time.Time) registrar.Record {
	r := registrar.Record{ID: id}
	for i, e := range expires {
		r.Challenges = append(r.Challenges, registrar.Challenge{
			Registration: registrar.Registration{EK: []byte{9}, AK: []byte{byte(i)}, NotEndorsed: "x", At: start()}, Secret: []byte{byte(i)}, Expires: e,
		})
	}
	return r
}

func testAbsent(t *testing.T, s registrar.Store) {
	wantAbsent(t, s, "a")
	if _, err := s.ByEK(t.Context(), "e"); !errors.Is(err, registrar.ErrNotFound) {
		t.Errorf("by EK: got %v", err)
	}
	put(t, s, unproven("a", start()))
	if _, err := s.ByEK(t.Context(), ""); !errors.Is(err, registrar.ErrNotFound) {
		t.Errorf("by no EK: got %v", err)
	}
	list, err := s.List(t.Context(), registrar.Active, "", 10)
	if err != nil || len(list) != 0 {
		t.Errorf("list: got %v, %v", list, err)
	}
}

func testEveryField(t *testing.T, s registrar.Store) {
	registration := registrar.Registration{
		EK: []byte{0, 1, 2}, AK: []byte{3}, Chain: [][]byte{{4}, {5, 6}}, Address: "fe80::1%eth0 'x' \x1b[31m é", Port: 65535, Certificate: "disabled",
		EndorsedBy: "CN=\"Vendor\", O=\n", Token: "t1", At: start(),
	}
	other := registration
	other.EndorsedBy, other.NotEndorsed, other.Chain = "", "no path", nil
	r := registrar.Record{
		ID: "node-1", EK: "e", Count: 7, Active: &registration,
		Waiting:    &registrar.Waiting{Registration: other, Reason: "a new AK", Expires: start().Add(time.Hour)},
		Challenges: []registrar.Challenge{{Registration: other, Secret: []byte("s1"), Expires: start(), From: "2001:db8::/64"}, {Registration: registration, Secret: []byte("s2"), Expires: start().Add(1)}},
	}
	put(t, s, r)
	same(t, r, get(t, s, "node-1"))
	byEK, err := s.ByEK(t.Context(), "e")
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, byEK)
	for _, state := range []registrar.State{registrar.Active, registrar.AwaitsApproval} {
		list, err := s.List(t.Context(), state, "", 10)
		if err != nil || len(list) != 1 {
			t.Fatalf("state %d: got %v, %v", state, list, err)
		}
		same(t, r, list[0])
	}
}

func testCopies(t *testing.T, s registrar.Store) {
	want := active("a", "e")
	given := active("a", "e")
	put(t, s, given)
	given.Active.AK[0] = 99
	got := get(t, s, "a")
	same(t, want, got)
	got.Active.AK[0] = 99
	got.Active.Address = "elsewhere"
	same(t, want, get(t, s, "a"))
	err := s.Update(t.Context(), "a", func(old *registrar.Record) (*registrar.Record, error) {
		old.Active.AK[0] = 99
		return nil, errors.New("no")
	})
	if err == nil {
		t.Error("the error of change was lost")
	}
	same(t, want, get(t, s, "a"))
}

func testUpdate(t *testing.T, s registrar.Store) {
	err := s.Update(t.Context(), "a", func(old *registrar.Record) (*registrar.Record, error) {
		if old != nil {
			t.Errorf("absent record: got %+v", old)
		}
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, s, "a")
	put(t, s, active("a", "e"), active("b", "f"))
	err = s.Update(t.Context(), "a", func(old *registrar.Record) (*registrar.Record, error) {
		same(t, active("a", "e"), *old)
		old.Count++
		return old, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	changed := active("a", "e")
	changed.Count = 2
	same(t, changed, get(t, s, "a"))
	same(t, active("b", "f"), get(t, s, "b"))
	err = s.Update(t.Context(), "a", func(*registrar.Record) (*registrar.Record, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	wantAbsent(t, s, "a")
	same(t, active("b", "f"), get(t, s, "b"))
}

func testFailedUpdate(t *testing.T, s registrar.Store) {
	broken := errors.New("broken")
	fail := func(*registrar.Record) (*registrar.Record, error) {
		r := active("a", "z")
		return &r, fmt.Errorf("decide: %w", broken)
	}
	if err := s.Update(t.Context(), "a", fail); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	wantAbsent(t, s, "a")
	put(t, s, active("a", "e"))
	if err := s.Update(t.Context(), "a", fail); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	same(t, active("a", "e"), get(t, s, "a"))
}

func testOneEK(t *testing.T, s registrar.Store) {
	put(t, s, active("a", "e"), unproven("u1", start()), unproven("u2", start()), waiting("w", "f", start()))
	for _, ek := range []attest.AgentID{"e", "f"} {
		err := s.Update(t.Context(), "b", func(*registrar.Record) (*registrar.Record, error) {
			r := active("b", ek)
			return &r, nil
		})
		if !errors.Is(err, registrar.ErrEKTaken) {
			t.Errorf("second holder of %s: got %v, want ErrEKTaken", ek, err)
		}
		wantAbsent(t, s, "b")
	}
	err := s.Update(t.Context(), "u1", func(old *registrar.Record) (*registrar.Record, error) {
		old.EK = "e"
		return old, nil
	})
	if !errors.Is(err, registrar.ErrEKTaken) {
		t.Errorf("change to a taken EK: got %v", err)
	}
	same(t, unproven("u1", start()), get(t, s, "u1"))
	err = s.Update(t.Context(), "a", func(*registrar.Record) (*registrar.Record, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, active("b", "e")) // a deleted record holds nothing
	moved := active("b", "g")
	put(t, s, moved, active("c", "e")) // nor does the former EK of a record
	holder, err := s.ByEK(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	same(t, moved, holder)
}

func testList(t *testing.T, s registrar.Store) {
	ids := []attest.AgentID{"a", "B", "a.b", "10", "9", "_z", "Z", "a-b"}
	for _, id := range ids {
		put(t, s, active(id, "ek-"+id))
	}
	both := waiting("both", "ek-both", start())
	both.Active = active("x", "y").Active
	put(t, s, unproven("u", start()), waiting("w", "ek-w", start()), both)
	want := append(slices.Clone(ids), "both")
	slices.Sort(want)
	var got []attest.AgentID
	var after attest.AgentID
	for {
		page, err := s.List(t.Context(), registrar.Active, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > 2 {
			t.Fatalf("%d records, limit 2", len(page))
		}
		if len(page) == 0 {
			break
		}
		for _, r := range page {
			got = append(got, r.ID)
		}
		after = got[len(got)-1]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	page, err := s.List(t.Context(), registrar.AwaitsApproval, "", 10)
	if err != nil || len(page) != 2 || page[0].ID != "both" || page[1].ID != "w" {
		t.Errorf("waiting: got %v, %v", page, err)
	}
}

func testSweep(t *testing.T, s registrar.Store) {
	now := start()
	past, exact, future := now.Add(-1), now, now.Add(1)
	lost := waiting("lost", "e1", past)
	lost.Challenges = unproven("", future).Challenges
	put(t, s, unproven("all-past", past, exact), unproven("some", past, future), waiting("w-past", "e2", exact), waiting("w-future", "e3", future), lost)
	counts, err := s.Sweep(t.Context(), now)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registrar.Counts{Unproven: 2, Waiting: 1}, counts); diff != "" {
		t.Error(diff)
	}
	wantAbsent(t, s, "all-past")
	wantAbsent(t, s, "w-past")
	some := unproven("some", past, future)
	some.Challenges = some.Challenges[1:]
	same(t, some, get(t, s, "some"))
	same(t, waiting("w-future", "e3", future), get(t, s, "w-future"))
	same(t, registrar.Record{ID: "lost", Challenges: lost.Challenges}, get(t, s, "lost"))
	put(t, s, active("again", "e1"), active("again2", "e2")) // their EKs are free
}

func testSweepKeeps(t *testing.T, s registrar.Store) {
	past := start().Add(-time.Hour)
	r := active("a", "e")
	r.Waiting = waiting("", "e", past).Waiting
	r.Challenges = unproven("", past).Challenges
	unendorsed := active("b", "f")
	unendorsed.Active.EndorsedBy, unendorsed.Active.NotEndorsed = "", "no certificate"
	put(t, s, r, unendorsed)
	counts, err := s.Sweep(t.Context(), start())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(registrar.Counts{Unendorsed: 1}, counts); diff != "" {
		t.Error(diff)
	}
	same(t, active("a", "e"), get(t, s, "a"))
	same(t, unendorsed, get(t, s, "b"))
	if holder, err := s.ByEK(t.Context(), "e"); err != nil || holder.ID != "a" {
		t.Errorf("the EK of an active record: got %v, %v", holder, err)
	}
}

// testDisplace lets one address have three records, the oldest of which another asked for too, and another address one.
func testDisplace(t *testing.T, s registrar.Store) {
	from := func(r registrar.Record, sources ...string) registrar.Record {
		for i := range r.Challenges {
			r.Challenges[i].From = sources[i]
		}
		return r
	}
	at := func(n int) time.Time { return start().Add(time.Duration(n) * time.Second) }
	shared := from(unproven("shared", at(1), at(9), at(10)), "x", "y", "x")
	waits := from(unproven("w", at(0)), "x")
	waits.EK, waits.Waiting = "ek", waiting("", "ek", at(0)).Waiting
	known := from(unproven("k", at(0)), "x")
	known.Active = active("", "").Active
	put(t, s, shared, waits, known, from(unproven("x2", at(3)), "x"), from(unproven("x1", at(2)), "x"), from(unproven("y1", at(1)), "y"))
	displace := func(source string, want bool) {
		t.Helper()
		if gone, err := s.Displace(t.Context(), source); err != nil || gone != want {
			t.Errorf("for %q: %v, %v", source, gone, err)
		}
	}
	displace("x", false) // nobody has more
	same(t, shared, get(t, s, "shared"))

	// x has three. The oldest of them is y's too and stays for y, which then has as many as x.
	displace("y", false)
	left := shared
	left.Challenges = left.Challenges[1:2]
	same(t, left, get(t, s, "shared"))
	displace("y", false)
	displace("x", false)
	put(t, s, from(unproven("x3", at(4)), "x"))
	displace("z", true)
	wantAbsent(t, s, "x1")
	same(t, waits, get(t, s, "w"))
	same(t, known, get(t, s, "k"))
	same(t, from(unproven("y1", at(1)), "y"), get(t, s, "y1"))
	for range 4 {
		displace("z", true)
	}
	displace("z", false) // none is left
}

func testConcurrent(t *testing.T, s registrar.Store) {
	const writers, writes = 8, 10
	put(t, s, active("a", "e"))
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range writes {
				err := s.Update(t.Context(), "a", func(old *registrar.Record) (*registrar.Record, error) {
					old.Count++
					return old, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := get(t, s, "a").Count; got != 1+writers*writes {
		t.Errorf("count is %d after %d updates from 1", got, writers*writes)
	}
	// Of several that claim one EK at once, one gets it.
	won := make(chan attest.AgentID, writers)
	for i := range writers {
		all.Go(func() {
			r := active(attest.AgentID(fmt.Sprintf("n%d", i)), "contested")
			err := s.Update(t.Context(), r.ID, func(*registrar.Record) (*registrar.Record, error) { return &r, nil })
			if err == nil {
				won <- r.ID
			} else if !errors.Is(err, registrar.ErrEKTaken) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(won) != 1 {
		t.Fatalf("%d records hold one EK", len(won))
	}
	if holder, err := s.ByEK(t.Context(), "contested"); err != nil || holder.ID != <-won {
		t.Errorf("got %v, %v", holder, err)
	}
}

func testCancelled(t *testing.T, s registrar.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Update(ctx, "a", func(*registrar.Record) (*registrar.Record, error) {
		r := active("a", "e")
		return &r, nil
	})
	if err == nil {
		t.Error("a cancelled update was reported as done")
	}
	wantAbsent(t, s, "a")
}
