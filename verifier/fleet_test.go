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

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/evidence/quote/quotetest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/machine"
)

// fleet is a running verifier with simulated machines. Its time is that of a synctest bubble.
type fleet struct {
	t     *testing.T
	store *MemoryStore
	cfg   Config
	v     *Verifier
	stop  context.CancelFunc
	ended chan error

	mu       sync.Mutex
	boxes    map[string]*boxtest.Box // by address
	faults   map[string]boxtest.Faults
	silent   map[string]error
	asked    []machine.Request
	during   func(to Enrolment) // called in the middle of a round, without the lock
	underWay int
	most     int
}

func newFleet(t *testing.T, documents ...*policy.Document) *fleet {
	t.Helper()
	f := &fleet{t: t, store: NewMemoryStore(), boxes: map[string]*boxtest.Box{}, faults: map[string]boxtest.Faults{}, silent: map[string]error{}}
	f.addPolicies(documents...)
	f.cfg = Config{Collector: f}
	return f
}

func (f *fleet) addPolicies(documents ...*policy.Document) {
	for _, d := range documents {
		if err := f.store.AddPolicy(f.t.Context(), StoredPolicy{Ref: d.Ref(), Bytes: d.Bytes(), Size: int64(len(d.Bytes()))}); err != nil {
			f.t.Fatal(err)
		}
	}
}

// start runs a verifier on the store.
func (f *fleet) start() {
	f.t.Helper()
	cfg := f.cfg
	cfg.Store, cfg.Evidence, cfg.Policies, cfg.Reactions = f.store, f.store, f.store, f.store
	v, err := New(cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	f.v, f.stop, f.ended = v, stop, make(chan error, 1)
	go func() { f.ended <- v.Run(ctx) }()
	synctest.Wait()
}

// end stops the verifier and waits for it.
func (f *fleet) end() {
	f.t.Helper()
	f.stop()
	if err := <-f.ended; err != nil {
		f.t.Errorf("the verifier ended with %v", err)
	}
}

// Collect implements Collector.
func (f *fleet) Collect(_ context.Context, to Enrolment, r machine.Request) (Collected, error) {
	f.mu.Lock()
	f.asked = append(f.asked, r)
	f.underWay++
	f.most = max(f.most, f.underWay)
	during := f.during
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.underWay--
		f.mu.Unlock()
	}()
	if during != nil {
		during(to)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.silent[to.Address]; err != nil {
		return Collected{}, err
	}
	b := f.boxes[to.Address]
	b.Clock.Clock = max(b.Clock.Clock, uint64(time.Now().UnixMilli()))
	return Collected{Answer: machine.Answer(b.Answer(boxtest.Ask(r), f.faults[to.Address]))}, nil
}

// on changes a machine, or how it answers, between rounds.
func (f *fleet) on(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fleet) enrol(id attest.AgentID, policies ...string) *boxtest.Box {
	f.t.Helper()
	b := boxtest.New(f.t)
	f.on(func() { f.boxes[string(id)] = b })
	if _, err := f.v.Enrol(f.t.Context(), enrolment(b, id, policies...)); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func enrolment(b *boxtest.Box, id attest.AgentID, policies ...string) Enrol {
	return Enrol{
		Registered: Registered{ID: id, AK: b.Signer.Public(), EK: boxtest.EKPublic(), Address: string(id), Port: 9002},
		Policies:   policies, FirstUse: true, Roots: endorsement.NewRoots(),
	}
}

func (f *fleet) node(id attest.AgentID) Node {
	f.t.Helper()
	n, err := f.v.Show(id)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fleet) want(id attest.AgentID, want attest.Verdict) Node {
	f.t.Helper()
	n := f.node(id)
	if got := f.v.Read(n); got != want {
		f.t.Fatalf("%s is %s, want %s: %v, trouble %v", id, got, want, n.State.Failures, n.State.Trouble)
	}
	return n
}

// verdicts are a node's stored transitions in short.
func (f *fleet) verdicts(id attest.AgentID) []attest.Verdict {
	f.t.Helper()
	rows, err := f.store.Transitions(f.t.Context(), id, 0, 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	var all []attest.Verdict
	for _, row := range rows {
		all = append(all, row.To)
	}
	return all
}

func (f *fleet) wantVerdicts(id attest.AgentID, want ...attest.Verdict) {
	f.t.Helper()
	if got := f.verdicts(id); !slices.Equal(got, want) {
		f.t.Errorf("transitions %v, want %v", got, want)
	}
}

// sleep lets the fleet live for a while.
func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// watched collects what a watcher is told.
type watched struct {
	mu   sync.Mutex
	all  []machine.Transition
	done chan struct{}
}

func (f *fleet) watch() *watched {
	events, _ := f.v.Watch()
	w := &watched{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for t := range events {
			w.mu.Lock()
			w.all = append(w.all, t)
			w.mu.Unlock()
		}
	}()
	return w
}

func (w *watched) verdicts() []attest.Verdict {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []attest.Verdict
	for _, t := range w.all {
		all = append(all, t.To)
	}
	return all
}

var errDown = errors.New("the database is away")

const (
	node1 = attest.AgentID("node-1")
	round = 35 * time.Second // the interval, its jitter and a bit
)

func TestFleetFollowsTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		watching := f.watch()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		f.want(node1, attest.Trusted)
		f.on(func() { b.Run("/usr/bin/evil", "") })
		sleep(round)
		n := f.want(node1, attest.Failed)
		if len(n.State.Failures) != 1 || n.State.Failures[0].Path != "/usr/bin/evil" {
			t.Errorf("failures %v", n.State.Failures)
		}
		f.on(b.Reset)
		sleep(2 * round)
		f.want(node1, attest.Trusted)
		want := []attest.Verdict{attest.Pending, attest.Trusted, attest.Failed, attest.Trusted}
		f.wantVerdicts(node1, want...)
		if got := watching.verdicts(); !slices.Equal(got, want) {
			t.Errorf("a watcher was told %v, want %v", got, want)
		}
		rows, err := f.store.Transitions(t.Context(), node1, 1, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows { // C12: the quote behind every transition
			if q, err := f.store.Quote(t.Context(), node1, row.Quote); err != nil || q.Digest.IsZero() {
				t.Errorf("the quote behind %s: %v", row.To, err)
			}
		}
		f.end()
		<-watching.done
	})
}

// C12: positions and quotes are written at most once per 60 s, and in the end all of them are there, without a hole.
func TestEvidenceIsWrittenInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		before := len(f.store.written())
		for range 20 {
			f.on(func() { b.Run("/usr/bin/a", "") })
			sleep(30 * time.Second)
		}
		if writes := len(f.store.written()) - before; writes < 6 || writes > 10 {
			t.Errorf("%d writes in 10 minutes of rounds each 30 s", writes)
		}
		f.end()
		n, err := f.store.Node(t.Context(), node1)
		if err != nil {
			t.Fatal(err)
		}
		list, err := f.store.List(t.Context(), node1, n.State.Boot)
		if err != nil || list.Count != n.State.IMA.Position || list.Count < 20 {
			t.Errorf("stored %d entries of %d, %v", list.Count, n.State.IMA.Position, err)
		}
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
	})
}

// A verifier that is killed in the middle of a round, with accepted evidence that it did not write, goes on from what is stored: the
// older clock is the bound, the entries are asked for again, and no verdict moves.
func TestRestartIsNoAlarm(t *testing.T) {
	for name, away := range map[string]time.Duration{"at once": 0, "after an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
				f.start()
				b := f.enrol(node1, "base")
				killed, stored := f.store, f.node(node1)
				unwritten := uint64(0)
				for range 10 { // until something is accepted that is not written; jitter decides when
					f.on(func() { b.Run("/usr/bin/a", "") })
					sleep(round)
					killed, unwritten = f.store.copy(), f.node(node1).State.IMA.Position
					var err error
					if stored, err = killed.Node(t.Context(), node1); err != nil {
						t.Fatal(err)
					}
					if stored.State.IMA.Position < unwritten {
						break
					}
				}
				f.end()
				if f.store = killed; stored.State.IMA.Position >= unwritten {
					t.Fatal("each round was written")
				}
				sleep(away)
				f.asked = nil
				f.start()
				sleep(15 * time.Second)
				n := f.want(node1, attest.Trusted)
				if n.State.IMA.Position != unwritten || n.State.Accepted <= stored.State.Accepted {
					t.Errorf("at entry %d, %d accepted", n.State.IMA.Position, n.State.Accepted)
				}
				if len(f.asked) != 1 || f.asked[0].Offset != stored.State.IMA.Position || f.asked[0].Full {
					t.Errorf("asked %+v, want one round from %d", f.asked, stored.State.IMA.Position)
				}
				f.wantVerdicts(node1, attest.Pending, attest.Trusted)
				f.end()
			})
		})
	}
}

// Evidence of one boot is never written as that of another, and the event log of the first one is not lost.
func TestRebootBetweenWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base", "/usr/bin/a"))
		f.start()
		b := f.enrol(node1, "base")
		sleep(time.Second)
		boots := []string{f.node(node1).State.Boot}
		for range 3 {
			f.on(func() { b.Reset(); b.Log = b.Log[:len(b.Log):len(b.Log)] })
			sleep(round)
			f.on(func() { b.Run("/usr/bin/a", "") })
			sleep(round)
			boots = append(boots, f.node(node1).State.Boot)
		}
		f.end()
		for i, boot := range boots {
			list, err := f.store.List(t.Context(), node1, boot)
			if want := uint64(min(i, 1) + 3); err != nil || list.Count != want {
				t.Errorf("boot %d: %d entries, want %d, %v", i, list.Count, want, err)
			}
			if log, err := f.store.BootLog(t.Context(), node1, boot); err != nil || len(log) != len(b.Log) {
				t.Errorf("boot %d: event log of %d bytes, %v", i, len(log), err)
			}
		}
		f.wantVerdicts(node1, attest.Pending, attest.Trusted)
	})
}

func TestConcurrencyIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t)
		f.cfg.Concurrency = 3
		f.during = func(Enrolment) { time.Sleep(2 * time.Second) }
		f.start()
		for i := range 12 {
			f.enrol(attest.AgentID(fmt.Sprintf("node-%d", i)))
		}
		sleep(9 * time.Second)
		for i := range 12 {
			f.want(attest.AgentID(fmt.Sprintf("node-%d", i)), attest.Unappraised)
		}
		if f.most != 3 {
			t.Errorf("%d rounds at once, want 3", f.most)
		}
		f.end()
	})
}

func TestSilenceInTheFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.start()
		f.enrol(node1, "base")
		sleep(time.Second)
		f.on(func() { f.silent["node-1"] = errors.New("connection refused") })
		sleep(4 * time.Minute)
		n := f.want(node1, attest.Stale)
		if n.State.Trouble == nil || n.State.Trouble.ID != attest.Unreachable {
			t.Errorf("trouble %v", n.State.Trouble)
		}
		f.on(func() { f.silent["node-1"] = fmt.Errorf("%w: status 404", ErrMalformed) })
		sleep(round)
		f.want(node1, attest.Failed)
		f.on(func() { delete(f.silent, "node-1") })
		sleep(round)
		f.want(node1, attest.Trusted)
		f.wantVerdicts(node1, attest.Pending, attest.Trusted, attest.Stale, attest.Failed, attest.Trusted)
		f.end()
	})
}

// An answer that comes after its nonce's life is no answer, and a round that hangs does not hang the node.
func TestAnswerThatTakesTooLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		f.during = func(Enrolment) { time.Sleep(nonceLifetime + time.Second) }
		f.start()
		f.enrol(node1, "base")
		sleep(2 * nonceLifetime)
		if n := f.want(node1, attest.Pending); n.State.Accepted != 0 || n.State.Silence == 0 {
			t.Errorf("%d accepted, %d silent", n.State.Accepted, n.State.Silence)
		}
		f.on(func() { f.during = nil })
		sleep(2 * nonceLifetime)
		f.want(node1, attest.Trusted)
		f.end()
	})
}

func TestEnrolRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, boxtest.Document(t, "base"))
		b := boxtest.New(t)
		good := enrolment(b, node1, "base")
		f.start()
		f.boxes["node-1"] = b
		for name, tt := range map[string]struct {
			edit func(*Enrol)
			want error
			id   attest.FailureID
		}{
			"an AK that is none":         {func(e *Enrol) { e.AK = []byte("no key") }, nil, attest.AkUnknown},
			"an AK of the wrong kind":    {func(e *Enrol) { e.AK = decryptingAK(t) }, nil, attest.AkAttributes},
			"an EK that is none":         {func(e *Enrol) { e.EK = []byte("no key") }, nil, attest.EkNotEndorsed},
			"an EK that nobody vouches":  {func(e *Enrol) { e.FirstUse = false }, nil, attest.EkNotEndorsed},
			"a policy that is not there": {func(e *Enrol) { e.Policies = []string{"base", "none"} }, ErrNotFound, ""},
			"an interval below a second": {func(e *Enrol) { e.Interval = time.Second - 1 }, ErrInvalid, ""},
			"an interval below nothing":  {func(e *Enrol) { e.Interval = -1 }, ErrInvalid, ""},
		} {
			e := good
			tt.edit(&e)
			_, err := f.v.Enrol(t.Context(), e)
			var refused *RefusedError
			switch {
			case tt.want != nil && !errors.Is(err, tt.want):
				t.Errorf("%s: %v, want %v", name, err, tt.want)
			case tt.id != "" && (!errors.As(err, &refused) || !slices.ContainsFunc(refused.Failures, func(f attest.Failure) bool { return f.ID == tt.id })):
				t.Errorf("%s: %v, want %s", name, err, tt.id)
			}
			if _, err := f.store.Node(t.Context(), node1); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: stored all the same", name)
			}
		}
		n, err := f.v.Enrol(t.Context(), good)
		if err != nil || !n.Enrolment.FirstUse {
			t.Fatalf("without a fault: %v, first use %t", err, n.Enrolment.FirstUse)
		}
		if _, err := f.v.Enrol(t.Context(), good); !errors.Is(err, ErrExists) {
			t.Errorf("again: %v, want ErrExists", err)
		}
		f.end()
		if _, err := f.v.Enrol(t.Context(), enrolment(b, "node-2")); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after the end: %v, want ErrNotRunning", err)
		}
	})
}

// decryptingAK is an AK that may decrypt too, and so could sign what a TPM did not make.
func decryptingAK(t *testing.T) []byte {
	t.Helper()
	public := quotetest.NewSigner(t, quotetest.ECDSAP256).Public()
	public[7] |= 0x02 // objectAttributes: decrypt
	return public
}
