package verifier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// book is a registrar's records.
type book struct {
	mu    sync.Mutex
	by    map[attest.AgentID]Registered
	err   error
	asked []time.Time
}

func (b *book) Agent(_ context.Context, id attest.AgentID) (Registered, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, time.Now())
	if b.err != nil {
		return Registered{}, b.err
	}
	if r, ok := b.by[id]; ok {
		return r, nil
	}
	return Registered{}, ErrNotFound
}

func (b *book) Agents(context.Context) ([]attest.AgentID, error) { return nil, nil }

// fail has the registrar answer with an error; nil ends that.
func (b *book) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// questions are when it was asked.
func (b *book) questions() []time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.asked)
}

func (b *book) put(r Registered) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.by[r.ID] = r
}

// registering is a fleet of one node that is Trusted, with a registrar that knows it.
func registering(t *testing.T, change func(*Config)) (*fleet, *book, *boxtest.Box) {
	t.Helper()
	f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
	records := &book{by: map[attest.AgentID]Registered{}}
	f.cfg.Registrar = records
	if change != nil {
		change(&f.cfg)
	}
	f.start()
	b := f.enrol(node1, "base")
	records.put(registeredBox(b))
	sleep(time.Second)
	f.want(node1, attest.Trusted)
	return f, records, b
}

func registeredBox(b *boxtest.Box) Registered {
	return Registered{ID: node1, AK: b.Signer.Public(), EK: boxtest.EKPublic(), Address: string(node1), Port: 9002}
}

// move has the box answer elsewhere.
func (f *fleet) move(b *boxtest.Box, to string) {
	f.on(func() {
		f.boxes[to] = b
		f.silent[string(node1)] = errors.New("connection refused")
		delete(f.silent, to)
	})
}

func TestAgentMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, b := registering(t, nil)
		f.move(b, "elsewhere")
		sleep(round)
		f.want(node1, attest.Trusted) // silent, and not yet registered anew
		before := f.node(node1).State.Accepted
		moved := registeredBox(b)
		moved.Address, moved.Port, moved.Certificate = "elsewhere", 9003, "another"
		records.put(moved)
		sleep(time.Minute)
		n := f.want(node1, attest.Trusted)
		if n.State.Accepted == before || n.Enrolment.Address != "elsewhere" || n.Enrolment.Port != 9003 || n.Enrolment.Certificate != "another" {
			t.Errorf("accepted %d, then %d, at %+v", before, n.State.Accepted, n.Enrolment)
		}
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
		if stored, err := f.store.Node(t.Context(), node1); err != nil || stored.Enrolment.Address != "elsewhere" {
			t.Errorf("stored %+v, %v", stored.Enrolment, err)
		}
		f.end()
	})
}

// An agent that opens a session is taken over at once, also from a row that somebody else wrote meanwhile: the loser reads again and the
// next registration finds it.
func TestRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, b := registering(t, nil)
		if err := f.v.Refresh(t.Context(), registeredBox(b)); err != nil {
			t.Errorf("nothing changed: %v", err)
		}
		writes := len(f.store.written())
		f.move(b, "elsewhere")
		moved := registeredBox(b)
		moved.Address = "elsewhere"
		records.put(moved)
		once := true
		f.store.fail(func(Commit) error {
			if once {
				once = false
				return ErrConflict
			}
			return nil
		}, nil)
		if err := f.v.Refresh(t.Context(), moved); !errors.Is(err, ErrConflict) {
			t.Errorf("error %v, want ErrConflict", err)
		}
		if n := f.node(node1); n.Enrolment.Address != string(node1) || len(f.store.written()) != writes {
			t.Errorf("taken over without being written: %+v", n.Enrolment)
		}
		if err := f.v.Refresh(t.Context(), moved); err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
		f.want(node1, attest.Trusted)
		if err := f.v.Refresh(t.Context(), Registered{ID: "node-2"}); !errors.Is(err, ErrNotFound) {
			t.Errorf("a node that is not enrolled: %v", err)
		}
		f.end()
	})
}

// Whatever a wrong record points at, the verdict is that of an answer without a quote of the enrolled AK, and it ends with the right one.
func TestWrongRecordProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, b := registering(t, nil)
		stranger := boxtest.New(t)
		stranger.Signer = stranger.Other
		f.move(b, "elsewhere")
		f.on(func() { f.boxes["thief"] = stranger })
		stolen := registeredBox(b)
		stolen.Address = "thief"
		records.put(stolen)
		sleep(2 * round)
		n := f.want(node1, attest.Failed)
		if n.State.QuoteBacked || n.State.Failures[0].ID.Info().Class != attest.Unauthenticated {
			t.Errorf("quote-backed %t, %v", n.State.QuoteBacked, n.State.Failures)
		}
		right := stolen
		right.Address = "elsewhere"
		records.put(right)
		sleep(longestLook + round)
		f.want(node1, attest.Trusted)
		f.end()
	})
}

// Another party at the agent's address is no silence: two machines whose names were exchanged both fail by their keys. An agent that has just
// registered anew is not taken for one.
func TestForeignKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, _ := registering(t, nil)
		asked := len(records.questions())
		f.on(func() { f.silent[string(node1)] = fmt.Errorf("quote: %w", mtls.ErrPin) })
		sleep(5 * round) // a round until it is seen, two intervals, and a round more; each has its jitter
		n := f.want(node1, attest.Failed)
		if n.State.QuoteBacked || len(n.State.Failures) != 1 || n.State.Failures[0].ID != attest.AgentKeyMismatch {
			t.Errorf("quote-backed %t, %v, want AgentKeyMismatch alone", n.State.QuoteBacked, n.State.Failures)
		}
		if len(records.questions()) == asked {
			t.Error("the registrar was not asked first")
		}
		// A while later it is still so, and the registrar has been asked again, but not in every round.
		sleep(time.Hour)
		f.want(node1, attest.Failed)
		if n := len(records.questions()) - asked; n > 70 {
			t.Errorf("the registrar was asked %d times in an hour", n)
		}
		f.on(func() { delete(f.silent, string(node1)) })
		sleep(round)
		f.want(node1, attest.Trusted)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Failed, attest.Trusted)
		f.end()
	})
}

// While the registrar cannot be asked, nobody knows whether the agent moved: another party at its address is silence.
func TestForeignKeyWithoutTheRegistrar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, _ := registering(t, nil)
		records.fail(ErrRegistrar)
		f.on(func() { f.silent[string(node1)] = fmt.Errorf("quote: %w", mtls.ErrPin) })
		sleep(10 * round)
		if n := f.want(node1, attest.Stale); n.State.Trouble == nil || n.State.Trouble.ID != attest.Unreachable {
			t.Errorf("trouble %v", n.State.Trouble)
		}
		records.fail(nil)
		sleep(5 * round)
		f.want(node1, attest.Failed)
		f.end()
	})
}

// The registrar is asked about a node in trouble after pauses that double; what it cannot say changes nothing.
func TestLooksAreRare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, records, _ := registering(t, nil)
		records.fail(ErrRegistrar)
		f.on(func() { f.silent[string(node1)] = errors.New("connection refused") })
		sleep(2 * time.Hour)
		f.want(node1, attest.Stale)
		if n := len(records.questions()); n < 20 || n > 40 {
			t.Errorf("asked %d times in two hours", n)
		}
		if pause := records.questions()[1].Sub(records.questions()[0]); pause > 5*time.Second {
			t.Errorf("the second question came %v after the first", pause)
		}
		f.on(func() { delete(f.silent, string(node1)) })
		sleep(round)
		count := len(records.questions())
		sleep(time.Hour)
		f.want(node1, attest.Trusted)
		if len(records.questions()) > count {
			t.Error("asked about a node that is well")
		}
		f.end()
	})
}

func TestReimage(t *testing.T) {
	for name, tt := range map[string]struct {
		server, node api.Reimage
		waits        bool
	}{
		"default":              {"", "", true},
		"approval":             {api.ReimageApproval, "", true},
		"allowed":              {api.ReimageAllow, "", false},
		"allowed for the node": {api.ReimageApproval, api.ReimageAllow, false},
		"not for the node":     {api.ReimageAllow, api.ReimageApproval, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, records, b := registering(t, func(c *Config) { c.Reimage = tt.server })
				err := f.v.send(t.Context(), node1, func(n Node) (Node, machine.Event, error) {
					n.Enrolment.Reimage = tt.node
					return n, machine.Asked{Now: time.Now()}, nil
				})
				if err != nil || f.v.AllowsReimage(node1) == tt.waits || f.v.AllowsReimage("node-2") {
					t.Fatalf("%v, allows %t", err, f.v.AllowsReimage(node1))
				}
				old := b.Signer.Public()
				f.on(b.Reimage)
				again := registeredBox(b)
				again.Address = "elsewhere"
				f.move(b, "elsewhere")
				records.put(again)
				sleep(2 * round)
				if tt.waits {
					n := f.node(node1)
					if f.v.Waiting(node1) == "" || string(n.Enrolment.AK) != string(old) || n.Enrolment.Address != string(node1) {
						t.Errorf("waiting %q, %+v", f.v.Waiting(node1), n.Enrolment)
					}
					f.want(node1, attest.Trusted)
					if err := f.v.Approve(t.Context(), again); err != nil {
						t.Fatal(err)
					}
					sleep(time.Second)
				}
				n := f.want(node1, attest.Trusted)
				if f.v.Waiting(node1) != "" || string(n.Enrolment.AK) != string(again.AK) || !slices.EqualFunc(n.Enrolment.Former, [][]byte{old}, slices.Equal) {
					t.Errorf("waiting %q, %+v", f.v.Waiting(node1), n.Enrolment)
				}
				f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Pending, attest.Trusted)
				f.end()
			})
		})
	}
}

// Another EK is another machine, and a key that breaks the rules is no AK: no approval helps.
func TestRegistrationThatNobodyMayApprove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, b := registering(t, func(c *Config) { c.Reimage = api.ReimageAllow })
		good := registeredBox(b)
		good.AK = boxtest.Signers()[2].Public()
		for name, tt := range map[string]struct {
			edit func(*Registered)
			want attest.FailureID
		}{
			"another EK":   {func(r *Registered) { r.EK = append(slices.Clone(r.EK[:len(r.EK)-1]), r.EK[len(r.EK)-1]^1) }, attest.EkNotEndorsed},
			"no AK":        {func(r *Registered) { r.AK = []byte("no key") }, attest.AkUnknown},
			"decrypting":   {func(r *Registered) { r.AK = decryptingAK(t) }, attest.AkAttributes},
			"another's EK": {func(r *Registered) { r.EK = []byte("no key") }, attest.EkNotEndorsed},
		} {
			bad := good
			tt.edit(&bad)
			for _, take := range []func(context.Context, Registered) error{f.v.Refresh, f.v.Approve} {
				var refused *RefusedError
				if err := take(t.Context(), bad); !errors.As(err, &refused) || refused.Failures[0].ID != tt.want {
					t.Errorf("%s: %v, want %s", name, err, tt.want)
				}
				if f.v.Waiting(node1) == "" {
					t.Errorf("%s: nothing is told of it", name)
				}
			}
		}
		f.want(node1, attest.Trusted)
		if err := f.v.Refresh(t.Context(), good); err != nil {
			t.Errorf("without a fault: %v", err)
		}
		f.want(node1, attest.Pending)
		f.end()
	})
}

// An address or a port that a person fixed at enrolment holds.
func TestFixedContact(t *testing.T) {
	n := Node{Enrolment: Enrol{Registered: Registered{Address: "registered", Port: 1}, FixedAddress: "fixed"}.contact()}
	next, event, err := n.follow(Registered{Address: "elsewhere", Port: 2}, false, time.Now())
	if _, moved := event.(machine.Moved); err != nil || !moved || next.Enrolment.Address != "fixed" || next.Enrolment.Port != 2 {
		t.Errorf("%v, %T, %+v", err, event, next.Enrolment)
	}
	n = Node{Enrolment: Enrol{FixedAddress: "fixed", FixedPort: 7}.contact()}
	if _, _, err := n.follow(Registered{Address: "elsewhere", Port: 2}, false, time.Now()); !errors.Is(err, errSame) {
		t.Errorf("both fixed: %v, want errSame", err)
	}
}
