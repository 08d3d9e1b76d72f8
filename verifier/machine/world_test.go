package machine

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/verifier/boxtest"
)

// shelf is what a store keeps of a node's evidence.
type shelf struct {
	quote *StoredQuote
	lists map[string][]byte
	logs  map[string][]byte
}

func (s *shelf) keep(k Keep, boot string) {
	if s.lists == nil {
		s.lists, s.logs = map[string][]byte{}, map[string][]byte{}
	}
	if k.Quote != nil {
		s.quote = k.Quote
	}
	if c := k.Chunk; c != nil {
		if c.First == 0 {
			s.lists[c.Boot] = nil
		}
		s.lists[c.Boot] = append(s.lists[c.Boot], c.ASCII...)
	}
	if k.BootLog != nil {
		s.logs[boot] = k.BootLog
	}
}

func (s *shelf) stored(boot string) *Stored {
	if s.quote == nil || boot == "" {
		return nil
	}
	return &Stored{Quote: *s.quote, List: s.lists[boot], BootLog: s.logs[boot]}
}

// world is a box and the machine that watches it, in a time of its own.
type world struct {
	t       testing.TB
	box     *boxtest.Box
	state   State
	who     Subject
	now     time.Time
	next    time.Duration // until the scheduled round
	shelf   shelf
	actions []Action
	rounds  int
}

var testStart = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newWorld(t testing.TB, documents ...*policy.Document) *world {
	t.Helper()
	b := boxtest.New(t)
	terms := Terms{Readmits: true, Endorsed: Counts(), Enrolled: Counts()}
	return &world{t: t, box: b, now: testStart, who: Subject{AK: b.Signer.AK(), Child: b.Child(), Policies: documents, Interval: 30 * time.Second, Terms: terms}}
}

func (w *world) step(e Event) {
	w.state, w.actions = Step(w.state, w.who, e)
	for _, action := range w.actions {
		switch a := action.(type) {
		case Keep:
			w.shelf.keep(a, w.state.Boot)
		case Schedule:
			w.next = a.After
		}
	}
}

// ask lets time pass until the next round and returns its request; ok is false when there is no round.
func (w *world) ask() (r Request, ok bool) {
	w.pass(w.next)
	w.rounds++
	w.step(Due{Now: w.now, Nonce: fmt.Sprintf("nonce%015d", w.rounds)})
	for _, action := range w.actions {
		if c, is := action.(Collect); is {
			return c.Request, true
		}
	}
	return Request{}, false
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.box.Clock.Clock += uint64(d.Milliseconds())
}

// round is one round with an answer.
func (w *world) round(f boxtest.Faults) {
	w.t.Helper()
	r, ok := w.ask()
	if !ok {
		w.t.Fatal("no round was asked for")
	}
	w.step(Answered{Now: w.now, Request: r, Answer: Answer(w.box.Answer(boxtest.Ask(r), f))})
}

// reimage has the verifier take the box's present AK in place of the one before.
func (w *world) reimage() {
	old := w.who.AK
	w.who.AK, w.who.Child = w.box.Signer.AK(), w.box.Child()
	w.step(Reimaged{Now: w.now, Old: old.Name(), New: w.who.AK.Name()})
}

func (w *world) verdict() attest.Verdict { return w.state.Read(w.now, w.who.Interval) }

func (w *world) change(documents ...*policy.Document) {
	w.who.Policies = documents
	w.step(PoliciesChanged{Now: w.now, Stored: w.shelf.stored(w.state.Boot)})
}

func ids(failures []attest.Failure) []attest.FailureID {
	var all []attest.FailureID
	for _, f := range failures {
		if !slices.Contains(all, f.ID) {
			all = append(all, f.ID)
		}
	}
	return all
}
