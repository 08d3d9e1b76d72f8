package verifier

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier/machine"
)

// worker runs one node's machine. Its fields belong to its goroutine, but for shown, which readers load.
type worker struct {
	v     *Verifier
	node  Node
	who   machine.Subject
	blind error // why who could not be made; nothing is judged meanwhile
	inbox chan command
	shown atomic.Pointer[Node]
	ended chan struct{} // closed when the goroutine is gone

	kept    *Commit   // accepted evidence that no commit has written yet; nil for none
	written time.Time // when the node was last written, or when the worker started

	waiting  atomic.Pointer[RefusedError] // why the last registration was not taken over; nil for none
	looks    int                          // how often the registrar was asked since the trouble began
	nextLook time.Time                    // not before
	lastLook time.Time                    // at which another party answered although the registrar had been asked
	// foreignSince is when another party began to answer in the agent's place; zero while none does.
	foreignSince time.Time

	asked   *machine.Request // the round under way
	answers chan answered    // its answer; nil between rounds
	dropped chan struct{}    // closed when nobody waits for the answer any more
	cancel  context.CancelFunc
	timer   *time.Timer
}

// command is a person's act on the node; the worker answers on done exactly once.
type command struct {
	change func(Node) (Node, machine.Event, error) // nil change removes the node
	done   chan error
}

// errRemoved ends a worker whose node was removed.
var errRemoved = errors.New("the node was removed")

type answered struct {
	request machine.Request
	answer  Collected
	err     error
	found   *Registered // instead of an answer: the agent registered anew
	looked  bool        // the registrar was asked before, and had nothing new
}

// drop gives back what an answer holds that nobody judges.
func (a answered) drop() {
	if a.answer.Release != nil {
		a.answer.Release()
	}
}

// minPause keeps a machine that asks for a round at once from spinning.
const minPause = 50 * time.Millisecond

// nonceLifetime bounds a round: the driver drops an answer that takes longer.
const nonceLifetime = 60 * time.Second

// run steps the machine until ctx ends or the node is removed.
func (w *worker) run(ctx context.Context) error {
	w.timer = time.NewTimer(w.firstDelay())
	defer w.timer.Stop()
	defer w.stopRound()
	w.written = w.v.cfg.Now()
	for {
		var err error
		select {
		case <-ctx.Done():
			w.finish(ctx)
			return nil
		case <-w.timer.C:
			err = w.due(ctx)
		case a := <-w.answers:
			err = w.arrived(ctx, a)
		case c := <-w.inbox:
			err = w.obey(ctx, c)
			if c.change == nil && errors.Is(err, errRemoved) {
				w.v.forget(w) // before the answer: the id can be enrolled again at once
				c.done <- nil
				return nil
			}
			c.done <- err
		}
		if errors.Is(err, errRemoved) {
			w.v.cfg.Log.Info("the node was removed elsewhere", "node", w.node.ID)
			return nil
		}
		if err != nil {
			w.v.cfg.Log.Error("round", "node", w.node.ID, "err", err)
		}
	}
}

// finish writes what was accepted, because the process ends. A failure costs only a repeated round after the start.
func (w *worker) finish(ctx context.Context) {
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := w.flush(flush); err != nil {
		w.v.cfg.Log.Warn("write accepted evidence at the end", "node", w.node.ID, "err", err)
	}
}

// firstDelay spreads the first rounds after a start; a node that was just enrolled goes first.
func (w *worker) firstDelay() time.Duration {
	if w.node.State.Accepted == 0 {
		return minPause
	}
	return rand.N(min(w.who.Interval, 10*time.Second))
}

func (w *worker) due(ctx context.Context) error {
	if w.asked != nil {
		return nil
	}
	now := w.v.cfg.Now()
	if w.blind != nil {
		who, err := w.v.subject(ctx, w.node)
		if err != nil {
			return errors.Join(w.step(ctx, machine.Unanswered{Now: now, Reason: "this server cannot judge the node: " + err.Error()}), err)
		}
		w.who, w.blind = who, nil
	}
	nonce, err := w.v.nonce()
	if err != nil {
		w.schedule(w.who.Interval)
		return err
	}
	return w.step(ctx, machine.Due{Now: now, Nonce: nonce})
}

func (w *worker) arrived(ctx context.Context, a answered) error {
	defer a.drop() // by then it is judged
	w.stopRound()
	if ctx.Err() != nil {
		return nil // the process ends, which is not the agent's silence
	}
	if a.found != nil {
		return w.adopt(ctx, *a.found)
	}
	now := w.v.cfg.Now()
	if !errors.Is(a.err, mtls.ErrPin) {
		w.foreignSince, w.lastLook = time.Time{}, time.Time{}
	}
	switch {
	case a.err == nil:
		var err error
		if w.who.Terms.Enrolled, err = w.v.endorsers.word(ctx, w.node, now); err != nil {
			return errors.Join(w.step(ctx, machine.Unanswered{Now: now, Reason: "this server cannot judge the node: " + err.Error()}), err)
		}
		return w.step(ctx, machine.Answered{Now: now, Request: a.request, Answer: a.answer.Answer})
	case errors.Is(a.err, ErrMalformed):
		return w.step(ctx, machine.Answered{Now: now, Request: a.request, Malformed: a.err.Error()})
	case errors.Is(a.err, mtls.ErrPin) && w.foreign(now, a.looked):
		return w.step(ctx, machine.Answered{Now: now, Request: a.request, Foreign: a.err.Error()})
	}
	return w.step(ctx, machine.Unanswered{Now: now, Reason: a.err.Error()})
}

// adopt takes over what the registrar has of the agent now, and begins another round.
func (w *worker) adopt(ctx context.Context, r Registered) error {
	err := w.obey(ctx, command{change: w.following(r, false)})
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// step runs the machine and carries out its actions. When the store refuses, the step did not happen: after a conflict the node is read
// again, otherwise it stands where it stood, and the next round tries again.
func (w *worker) step(ctx context.Context, e machine.Event) error {
	before, kept := w.node, w.kept
	state, actions := machine.Step(w.node.State, w.who, e)
	if state.Boot != w.node.State.Boot {
		// What was kept belongs to the boot before, with its event log, and is written as that.
		if err := w.flush(ctx); err != nil {
			return w.refused(ctx, before, err)
		}
		before, kept = w.node, w.kept
	}
	w.node.State = state
	for _, action := range actions {
		switch a := action.(type) {
		case machine.Collect:
			w.collect(ctx, a.Request)
		case machine.Schedule:
			w.schedule(a.After)
		case machine.Keep:
			w.keep(a)
		case machine.Record:
			if err := w.record(ctx, a.Transition); err != nil {
				w.kept = kept
				return w.refused(ctx, before, err)
			}
		}
	}
	defer w.publish()
	if !w.flushDue() {
		return nil
	}
	err := w.flush(ctx)
	if errors.Is(err, ErrConflict) {
		return w.refused(ctx, w.node, err)
	}
	return err // the store is away: rounds go on, and what they prove is kept
}

// refused goes back to the node as it was before a step that could not be written.
func (w *worker) refused(ctx context.Context, before Node, cause error) error {
	w.stopRound()
	w.schedule(w.who.Interval)
	w.node = before
	if errors.Is(cause, ErrConflict) {
		if err := w.reload(ctx); err != nil {
			return errors.Join(cause, err)
		}
	}
	w.publish()
	return cause
}

// schedule sets the timer: at least minPause, and up to a tenth more or less than asked.
func (w *worker) schedule(after time.Duration) {
	after = max(after, minPause)
	jitter := time.Duration(rand.Int64N(int64(after)/5+1)) - after/10
	w.timer.Reset(after + jitter)
}

// collect starts a round; its answer comes on w.answers. Rounds wait for a free place.
func (w *worker) collect(ctx context.Context, r machine.Request) {
	ctx, cancel := context.WithTimeout(ctx, nonceLifetime)
	answers, dropped := make(chan answered, 1), make(chan struct{}) // of this round alone: an answer to a dropped round reaches nobody
	w.asked, w.answers, w.dropped, w.cancel = &r, answers, dropped, cancel
	id, to, look := w.node.ID, w.node.Enrolment, w.lookDue()
	w.v.group.Go(func() error {
		defer cancel()
		select {
		case w.v.rounds <- struct{}{}:
		case <-ctx.Done():
			answers <- answered{request: r, err: fmt.Errorf("no place for the round became free: %w", ctx.Err())}
			return nil
		}
		looked := false
		if look {
			var found *Registered
			if found, looked = w.look(ctx, id); found != nil {
				<-w.v.rounds
				answers <- answered{request: r, found: found}
				return nil
			}
		}
		begin := time.Now()
		answer, err := w.v.cfg.Collector.Collect(ctx, to, r)
		<-w.v.rounds
		if err == nil && ctx.Err() != nil {
			err = fmt.Errorf("the answer took longer than its nonce lives: %w", ctx.Err())
		}
		w.v.metrics.round(time.Since(begin), err)
		answers <- answered{request: r, answer: answer, err: err, looked: looked}
		select {
		case <-dropped:
			discard(answers)
		default:
		}
		return nil
	})
}

// stopRound ends the round under way. Its answer is discarded, by whoever comes last: here, or where it was collected.
func (w *worker) stopRound() {
	if w.cancel != nil {
		w.cancel()
		close(w.dropped)
		discard(w.answers)
	}
	w.asked, w.answers, w.dropped, w.cancel = nil, nil, nil, nil
}

func discard(answers <-chan answered) {
	select {
	case a := <-answers:
		a.drop()
	default:
	}
}

// obey carries out a person's act. A round under way is dropped: it was asked for by a state that no longer holds. On an error nothing
// of the act happened.
func (w *worker) obey(ctx context.Context, c command) error {
	w.stopRound()
	w.schedule(minPause)
	if c.change == nil {
		err := w.v.cfg.Store.RemoveNode(ctx, w.node.ID, w.node.Version)
		if err == nil || errors.Is(err, ErrNotFound) {
			return errRemoved
		}
		return w.refused(ctx, w.node, err)
	}
	// What was kept is written first, so that stored evidence is whole when policies are applied to it.
	if err := w.flush(ctx); err != nil {
		return w.refused(ctx, w.node, err)
	}
	node, event, err := c.change(w.node)
	if err != nil {
		return err
	}
	who, err := w.v.subject(ctx, node)
	if err != nil {
		return err
	}
	if changed, ok := event.(machine.PoliciesChanged); ok {
		if changed.Stored, err = w.stored(ctx); err != nil {
			return err
		}
		event = changed
	}
	return w.change(ctx, node, who, event)
}

// change steps the machine with a changed node and makes the change durable.
func (w *worker) change(ctx context.Context, node Node, who machine.Subject, e machine.Event) error {
	old, oldWho, oldBlind := w.node, w.who, w.blind
	w.node, w.who, w.blind = node, who, nil
	err := w.step(ctx, e)
	if err == nil && w.node.Version == old.Version { // the step recorded nothing
		if err = w.write(ctx, nil); err != nil {
			err = w.refused(ctx, old, err)
		}
	}
	if err != nil && w.node.Version == old.Version {
		w.node, w.who, w.blind = old, oldWho, oldBlind
	}
	w.publish()
	return err
}

// reload reads the node again after a conflict: the loser drops its round and all that it kept. Transitions that were stored meanwhile
// (by another server, or by a write of ours whose answer was lost) are told to those who watch here.
func (w *worker) reload(ctx context.Context) error {
	node, err := w.v.cfg.Store.Node(ctx, w.node.ID)
	if errors.Is(err, ErrNotFound) {
		return errRemoved
	}
	if err != nil {
		return fmt.Errorf("read node again: %w", err)
	}
	missed, err := w.v.cfg.Evidence.Transitions(ctx, w.node.ID, w.node.State.Seq, hubBuffer)
	if err != nil {
		return fmt.Errorf("read transitions again: %w", err)
	}
	w.kept = nil
	w.node = node
	w.who, w.blind = w.v.subject(ctx, node)
	for _, t := range missed {
		w.v.announce(t)
	}
	return nil
}

func (w *worker) publish() {
	n := w.node
	w.shown.Store(&n)
}
