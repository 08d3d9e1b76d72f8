package verifier

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/attest"
)

// worker runs one node's machine. Its fields belong to its goroutine, but for shown, which readers load.
type worker struct {
	v     *Verifier
	node  Node
	who   Subject
	inbox chan command
	shown atomic.Pointer[Node]
	ended chan struct{} // closed when the goroutine is gone

	kept      Commit // accepted evidence that no commit has written yet
	keptSince time.Time
	keptBytes int

	asked   *Request      // the round under way
	answers chan answered // its answer; nil between rounds
	cancel  context.CancelFunc
	timer   *time.Timer
}

// command is a person's act on the node; the worker answers on done exactly once.
type command struct {
	change func(Node) (Node, Event, error) // nil change removes the node
	done   chan error
}

// errRemoved ends a worker whose node was removed.
var errRemoved = errors.New("removed")

type answered struct {
	request Request
	answer  Answer
	err     error
}

// minPause keeps a machine that asks for a round at once from spinning.
const minPause = 50 * time.Millisecond

// run steps the machine until ctx ends or the node is removed.
func (w *worker) run(ctx context.Context) error {
	w.timer = time.NewTimer(w.firstDelay())
	defer w.timer.Stop()
	for {
		select {
		case <-ctx.Done():
			w.stopRound()
			// The process ends: what was accepted is worth one more write. A failure costs only a repeated round after the start.
			flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			if err := w.flush(flush); err != nil {
				w.v.cfg.Log.Warn("write accepted evidence at the end", "node", w.node.ID, "err", err)
			}
			return nil
		case <-w.timer.C:
			w.due(ctx)
		case a := <-w.answers:
			w.arrived(ctx, a)
		case c := <-w.inbox:
			err := w.obey(ctx, c)
			if errors.Is(err, errRemoved) {
				c.done <- nil
				return nil
			}
			c.done <- err
		}
	}
}

// firstDelay spreads the first rounds after a start over one interval, a node that was just enrolled goes first.
func (w *worker) firstDelay() time.Duration {
	if w.node.State.Accepted == 0 {
		return minPause
	}
	return rand.N(min(w.who.Interval, 10*time.Second))
}

func (w *worker) due(ctx context.Context) {
	if w.asked != nil {
		return
	}
	nonce, err := w.v.nonce()
	if err != nil {
		w.v.cfg.Log.Error("start round", "node", w.node.ID, "err", err)
		w.timer.Reset(w.who.Interval)
		return
	}
	w.step(ctx, Due{Now: w.v.cfg.Now(), Nonce: nonce})
}

func (w *worker) arrived(ctx context.Context, a answered) {
	w.stopRound()
	now := w.v.cfg.Now()
	switch {
	case a.err == nil:
		w.step(ctx, Answered{Now: now, Request: a.request, Answer: a.answer})
	case errors.Is(a.err, ErrMalformed):
		w.step(ctx, Answered{Now: now, Request: a.request, Malformed: a.err.Error()})
	default:
		w.step(ctx, Unanswered{Now: now, Reason: a.err.Error()})
	}
}

// step runs the machine and carries out its actions. When the store refuses, the step did not happen: the node is read again.
func (w *worker) step(ctx context.Context, e Event) {
	before, kept := w.node, w.kept
	state, actions := Step(w.node.State, w.who, e)
	w.node.State = state
	for _, action := range actions {
		switch a := action.(type) {
		case Collect:
			w.collect(ctx, a.Request)
		case Schedule:
			w.schedule(a.After)
		case Keep:
			w.keep(a)
		case Record:
			if err := w.record(ctx, a.Transition); err != nil {
				w.v.cfg.Log.Error("record transition", "node", w.node.ID, "err", err)
				w.node, w.kept = before, kept
				w.reload(ctx, err)
				return
			}
		}
	}
	if w.keptSince.IsZero() || w.v.cfg.Now().Sub(w.keptSince) < flushAfter && w.keptBytes < flushBytes {
		w.publish()
		return
	}
	if err := w.flush(ctx); err != nil {
		w.v.cfg.Log.Error("write accepted evidence", "node", w.node.ID, "err", err)
		w.reload(ctx, err)
	}
	w.publish()
}

// schedule sets the timer: at least minPause, and up to a tenth more or less than asked.
func (w *worker) schedule(after time.Duration) {
	after = max(after, minPause)
	jitter := time.Duration(rand.Int64N(int64(after)/5+1)) - after/10
	w.timer.Reset(after + jitter)
}

// collect starts a round; its answer comes on w.answers. Rounds wait for a free place.
func (w *worker) collect(ctx context.Context, r Request) {
	ctx, cancel := context.WithTimeout(ctx, nonceLifetime)
	answers := make(chan answered, 1) // of this round alone: an answer to a dropped round reaches nobody
	w.asked, w.answers, w.cancel = &r, answers, cancel
	to := w.node.Enrolment
	w.v.group.Go(func() error {
		defer cancel()
		select {
		case w.v.rounds <- struct{}{}:
		case <-ctx.Done():
			answers <- answered{request: r, err: ctx.Err()}
			return nil
		}
		begin := time.Now()
		answer, err := w.v.cfg.Collector.Collect(ctx, to, r)
		<-w.v.rounds
		w.v.metrics.round(time.Since(begin), err)
		answers <- answered{request: r, answer: answer, err: err}
		return nil
	})
}

func (w *worker) stopRound() {
	if w.cancel != nil {
		w.cancel()
	}
	w.asked, w.answers, w.cancel = nil, nil, nil
}

// obey carries out a person's act. A round under way is dropped: it was asked for by a state that no longer holds.
func (w *worker) obey(ctx context.Context, c command) error {
	w.stopRound()
	if c.change == nil {
		if err := w.v.cfg.Store.RemoveNode(ctx, w.node.ID, w.node.Version); err != nil {
			w.reload(ctx, err)
			return err
		}
		return errRemoved
	}
	// What was kept is written first, so that stored evidence is whole when policies are applied to it.
	if err := w.flush(ctx); err != nil {
		w.reload(ctx, err)
		return err
	}
	node, event, err := c.change(w.node)
	if err != nil {
		w.schedule(w.who.Interval)
		return err
	}
	who, err := w.v.subject(ctx, node)
	if err != nil {
		w.schedule(w.who.Interval)
		return err
	}
	if changed, ok := event.(PoliciesChanged); ok {
		if changed.Stored, err = w.stored(ctx); err != nil {
			w.schedule(w.who.Interval)
			return err
		}
		event = changed
	}
	old, oldWho := w.node, w.who
	w.node, w.who = node, who
	w.schedule(minPause)
	w.step(ctx, event)
	if w.node.Version == old.Version { // the step recorded nothing: the act itself must be durable
		if err := w.write(ctx, nil); err != nil {
			w.node, w.who = old, oldWho
			w.reload(ctx, err)
			return err
		}
	}
	w.publish()
	return nil
}

// stored reads the whole evidence of the boot; nil when there is none.
func (w *worker) stored(ctx context.Context) (*Stored, error) {
	if w.node.State.Boot == "" {
		return nil, nil
	}
	q, err := w.v.cfg.Evidence.Quote(ctx, w.node.ID, attest.Digest{})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored := &Stored{Quote: q}
	list, err := w.v.cfg.Evidence.List(ctx, w.node.ID, w.node.State.Boot)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	stored.List = list.ASCII
	log, err := w.v.cfg.Evidence.BootLog(ctx, w.node.ID, w.node.State.Boot)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	stored.BootLog = log
	return stored, nil
}

func (w *worker) keep(k Keep) {
	if w.keptSince.IsZero() {
		w.keptSince = w.v.cfg.Now()
	}
	if k.Quote != nil {
		q := *k.Quote
		q.Node = w.node.ID
		w.kept.Quotes = []StoredQuote{q}
	}
	if k.Chunk != nil {
		if k.Chunk.First == 0 {
			w.kept.Chunks = nil
		}
		w.kept.Chunks = append(w.kept.Chunks, *k.Chunk)
		w.keptBytes += len(k.Chunk.ASCII)
	}
	if k.BootLog != nil {
		w.kept.BootLog = k.BootLog
	}
}

// record writes a transition with all that was kept, then tells those who watch.
func (w *worker) record(ctx context.Context, t Transition) error {
	t.Node = w.node.ID
	if err := w.write(ctx, &t); err != nil {
		return err
	}
	w.v.cfg.Log.Info("verdict", "node", t.Node, "from", t.From, "to", t.To, "cause", t.Cause, "failures", len(t.Failures))
	w.v.metrics.transition(t)
	w.v.hub.send(t)
	return nil
}

func (w *worker) flush(ctx context.Context) error {
	if w.keptSince.IsZero() {
		return nil
	}
	return w.write(ctx, nil)
}

func (w *worker) write(ctx context.Context, t *Transition) error {
	c := w.kept
	c.Node, c.Expect, c.Transition = w.node, w.node.Version, t
	version, err := w.v.cfg.Store.Commit(ctx, c)
	if err != nil {
		return err
	}
	w.node.Version = version
	w.kept, w.keptSince, w.keptBytes = Commit{}, time.Time{}, 0
	return nil
}

// reload reads the node again after a refused write: the loser drops its round, and nothing of it is emitted.
func (w *worker) reload(ctx context.Context, cause error) {
	w.stopRound()
	w.schedule(w.who.Interval)
	if !errors.Is(cause, ErrConflict) {
		return // the store is away: keep the state, try again with the next round
	}
	node, err := w.v.cfg.Store.Node(ctx, w.node.ID)
	if err != nil {
		w.v.cfg.Log.Error("read node again", "node", w.node.ID, "err", err)
		return
	}
	who, err := w.v.subject(ctx, node)
	if err != nil {
		w.v.cfg.Log.Error("read node again", "node", w.node.ID, "err", err)
		return
	}
	w.node, w.who = node, who
	w.kept, w.keptSince, w.keptBytes = Commit{}, time.Time{}, 0
	w.publish()
}

func (w *worker) publish() {
	n := w.node
	w.shown.Store(&n)
}
