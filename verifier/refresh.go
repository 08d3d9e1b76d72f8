package verifier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/verifier/machine"
)

// How often a registrar is asked about a node that is in trouble: at once, then after pauses that double up to the longest one. An agent
// that opens a session is looked at without any pause, see Refresh.
const (
	firstLook   = time.Second
	longestLook = 5 * time.Minute
	lookTimeout = 5 * time.Second // of a round, whose nonce lives 60 s
	// freshLook is how long the registrar's word holds that the key of another party is not the agent's.
	freshLook = time.Minute
	maxFormer = 8
)

// errSame says that a registration changes nothing of its node.
var errSame = errors.New("nothing changed")

// follow returns the node as a registration changes it, with the event that tells the machine; errSame where it changes nothing.
//
// The registrar activates a registration only when its AK and its EK are proven to be in one TPM, so that nobody but the machine moves a
// node. Even so, address, port and certificate only say whom to ask: whatever answers there counts once a quote by the enrolled AK covers
// it. A new AK of the EK needs `reimage: Allow` or a person's word, which is what approved says. Another EK is another machine, for which a person
// removes the node and enrols it again: a RefusedError.
func (n Node) follow(r Registered, approved bool, now time.Time) (Node, machine.Event, error) {
	if !bytes.Equal(n.Enrolment.EK, r.EK) {
		return n, nil, refusal(attest.EkNotEndorsed, "The agent registered with another endorsement key than the enrolled one: that is another machine. Remove the node and enrol it again.")
	}
	e := n.Enrolment
	if !e.FixedAddress {
		e.Address = r.Address
	}
	if !e.FixedPort {
		e.Port = r.Port
	}
	e.Certificate = r.Certificate
	if bytes.Equal(e.AK, r.AK) {
		if e.Address == n.Enrolment.Address && e.Port == n.Enrolment.Port && e.Certificate == n.Enrolment.Certificate {
			return n, nil, errSame
		}
		n.Enrolment = e
		return n, machine.Moved{Now: now}, nil
	}
	if !approved {
		return n, nil, refusal(attest.AkUnknown, "The agent registered a new attestation key of the same TPM: a reimaged machine or a cleared TPM. A person has to approve it.")
	}
	old, _, err := endorsement.ParseAK(e.AK)
	if err != nil {
		return n, nil, fmt.Errorf("enrolled attestation key: %w", err)
	}
	key, failures, err := endorsement.ParseAK(r.AK)
	if err != nil {
		return n, nil, refusal(attest.AkUnknown, err.Error())
	}
	if len(failures) > 0 {
		return n, nil, &RefusedError{failures}
	}
	e.Former = append([][]byte{e.AK}, e.Former...)
	e.Former = slices.Clip(e.Former[:min(len(e.Former), maxFormer)])
	e.AK = r.AK
	n.Enrolment = e
	return n, machine.Reimaged{Now: now, Old: old.Name(), New: key.Name()}, nil
}

func refusal(id attest.FailureID, detail string) error {
	return &RefusedError{[]attest.Failure{attest.Fail(id, detail)}}
}

// reimage is what becomes of a new AK of a node's EK: the node's own setting, or else the server's.
func (v *Verifier) reimage(n Node) api.Reimage {
	if n.Enrolment.Reimage != "" {
		return n.Enrolment.Reimage
	}
	return v.cfg.Reimage
}

// AllowsReimage tells a registrar whether a new AK of an enrolled agent's EK needs no person. It is false for agents that are not enrolled.
func (v *Verifier) AllowsReimage(id attest.AgentID) bool {
	n, err := v.Show(id)
	return err == nil && v.reimage(n) == api.ReimageAllow
}

// Refresh takes over what an agent registered since: another address, port or TLS certificate, and, where `reimage: Allow` holds, another
// AK of the same TPM. What changes nothing is no error. A RefusedError says that a person has to act; Waiting tells it too from then on.
func (v *Verifier) Refresh(ctx context.Context, r Registered) error { return v.take(ctx, r, false) }

// Approve is Refresh by a person who lets another AK of the same TPM in.
func (v *Verifier) Approve(ctx context.Context, r Registered) error { return v.take(ctx, r, true) }

func (v *Verifier) take(ctx context.Context, r Registered, approved bool) error {
	w, err := v.worker(r.ID)
	if err != nil {
		return err
	}
	// Most registrations change nothing; a round under way is not dropped for them.
	if !w.news(r, approved) {
		if refused := w.waiting.Load(); refused != nil {
			return refused
		}
		return nil
	}
	err = v.send(ctx, r.ID, w.following(r, approved))
	if errors.Is(err, errSame) {
		return nil
	}
	return err
}

// following is the change that a registration makes of the node as it stands when its goroutine comes to it.
func (w *worker) following(r Registered, approved bool) func(Node) (Node, machine.Event, error) {
	return func(n Node) (Node, machine.Event, error) {
		next, event, err := n.follow(r, approved || w.v.reimage(n) == api.ReimageAllow, w.v.cfg.Now())
		if err == nil {
			w.waiting.Store(nil)
			w.v.cfg.Log.Info("the agent registered anew", "node", n.ID, "address", next.Enrolment.Address, "port", next.Enrolment.Port,
				"newAK", !bytes.Equal(n.Enrolment.AK, next.Enrolment.AK))
		}
		return next, event, err
	}
}

// news reports whether a registration changes the published node, and notes why it may not.
func (w *worker) news(r Registered, approved bool) bool {
	n := *w.shown.Load()
	_, _, err := n.follow(r, approved || w.v.reimage(n) == api.ReimageAllow, w.v.cfg.Now())
	var refused *RefusedError
	switch {
	case err == nil:
		return true
	case errors.As(err, &refused):
		if before := w.waiting.Swap(refused); before == nil {
			w.v.cfg.Log.Warn("a registration waits for a person", "node", n.ID, "err", refused)
		}
	default:
		w.waiting.Store(nil)
	}
	return false
}

// Waiting returns why the last registration of an enrolled agent was not taken over, "" when nothing waits.
func (v *Verifier) Waiting(id attest.AgentID) string {
	w, err := v.worker(id)
	if err != nil {
		return ""
	}
	if refused := w.waiting.Load(); refused != nil && len(refused.Failures) > 0 {
		return refused.Failures[0].Detail
	}
	return ""
}

// lookDue says whether the round that is about to begin asks the registrar first: the last one ended in silence or in a refusal, which is
// what an agent that moved looks like from here.
func (w *worker) lookDue() bool {
	if w.v.cfg.Registrar == nil {
		return false
	}
	if w.node.State.Trouble == nil {
		w.looks = 0
		return false
	}
	now := w.v.cfg.Now()
	if w.looks > 0 && now.Before(w.nextLook) {
		return false
	}
	w.nextLook = now.Add(min(firstLook<<min(w.looks, 16), longestLook))
	w.looks++
	return true
}

// look asks the registrar; found is nil when there is nothing to take over, and told is false when the registrar did not say.
func (w *worker) look(ctx context.Context, id attest.AgentID) (found *Registered, told bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	registered, err := w.v.cfg.Registrar.Agent(ctx, id)
	if err != nil {
		w.v.cfg.Log.Debug("ask the registrar", "node", id, "err", err)
		return nil, errors.Is(err, ErrNotFound)
	}
	if !w.news(registered, false) {
		return nil, true
	}
	return &registered, true
}

// foreign says that the key of another party is no sign of an agent that moves: it has been there for two intervals, and the registrar, asked in
// this round or a moment ago, knows of nothing new. Otherwise, also where it did not answer, the next round asks it.
func (w *worker) foreign(now time.Time, looked bool) bool {
	if w.foreignSince.IsZero() {
		w.foreignSince = now
	}
	if looked {
		w.lastLook = now
	}
	if w.v.cfg.Registrar != nil && (w.lastLook.IsZero() || now.Sub(w.lastLook) >= freshLook) {
		w.nextLook = now
		return false
	}
	return now.Sub(w.foreignSince) >= 2*w.who.Interval
}
