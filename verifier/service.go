package verifier

import (
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

// Registered is an activated agent as the registrar knows it.
type Registered struct {
	ID attest.AgentID
	// EK and AK are TPM2B_PUBLIC structures, Chain the EK certificates as DER, leaf first, possibly none.
	EK, AK []byte
	Chain  [][]byte
	// Address, Port and Certificate (PEM) are where and as whom the agent answers.
	Address     string
	Port        int
	Certificate string
}

// Enrol is what a person decides when enrolling an agent.
type Enrol struct {
	Registered
	// FixedAddress and FixedPort are where a person says that the agent answers, for good and whatever it registers; zero values leave
	// that to the agent.
	FixedAddress string
	FixedPort    int
	Policies     []string
	Interval     time.Duration
	// FirstUse accepts an EK without endorsement.
	FirstUse bool
	// EmulatedRoots are the fingerprints of those Roots that endorse emulators.
	EmulatedRoots []attest.Digest
	Assignment    api.Assignment
	// Roots are the accepted vendor roots.
	Roots *endorsement.Roots
}

// A RefusedError says that an enrolment or an act was refused by a rule, with its failures.
type RefusedError struct {
	Failures []attest.Failure
}

// Error names the first failure.
func (e *RefusedError) Error() string {
	if len(e.Failures) == 0 {
		return "refused"
	}
	return fmt.Sprintf("%s: %s", e.Failures[0].ID, e.Failures[0].Detail)
}

// Enrol checks AK and EK again, stores the node and starts its rounds.
func (v *Verifier) Enrol(ctx context.Context, e Enrol) (Node, error) {
	now := v.cfg.Now()
	if err := checkInterval(e.Interval); err != nil {
		return Node{}, err
	}
	_, failures, err := endorsement.ParseAK(e.AK)
	if err != nil {
		return Node{}, &RefusedError{[]attest.Failure{attest.Fail(attest.AkUnknown, err.Error())}}
	}
	if len(failures) > 0 {
		return Node{}, &RefusedError{failures}
	}
	ek, err := endorsement.ParseEK(e.EK)
	if err != nil {
		return Node{}, &RefusedError{[]attest.Failure{attest.Fail(attest.EkNotEndorsed, err.Error())}}
	}
	by, failures := e.Roots.Check(ek, e.Chain, now)
	if len(failures) > 0 && !e.FirstUse {
		return Node{}, &RefusedError{failures}
	}
	refs, err := v.resolve(ctx, e.Policies)
	if err != nil {
		return Node{}, err
	}
	if !v.Running() {
		return Node{}, ErrNotRunning
	}
	enrolment := e.contact()
	enrolment.EndorsedBy, enrolment.FirstUse, enrolment.At = by.Root, len(failures) > 0, now
	node := Node{
		ID: e.ID, Policies: refs, Interval: e.Interval, Enrolment: enrolment,
		State: machine.State{Verdict: attest.Pending, Shown: attest.Pending, Since: now, Enrolled: now, Seq: 1},
	}
	node.Enrolment.EndorsedRoot, node.Enrolment.Emulated = by.RootFingerprint, slices.Contains(e.EmulatedRoots, by.RootFingerprint)
	node, _ = node.assign(e.Assignment)
	first := machine.Transition{Seq: 1, Node: e.ID, At: now, To: attest.Pending, Policies: refs, Cause: "enrol"}
	if node.Version, err = v.cfg.Store.Commit(ctx, Commit{Node: node, Transition: &first}); err != nil {
		return Node{}, fmt.Errorf("enrol %s: %w", e.ID, err)
	}
	// A verifier that just ended starts it when it runs again.
	if err := v.start(ctx, node); err != nil && !errors.Is(err, ErrNotRunning) {
		return Node{}, err
	}
	v.announce(first)
	return node, nil
}

// checkInterval checks the pause between a node's rounds; 0 is the server's.
func checkInterval(interval time.Duration) error {
	if interval != 0 && (interval < minInterval || interval > maxInterval) {
		return fmt.Errorf("interval %v is not %v to %v: %w", interval, minInterval, maxInterval, ErrInvalid)
	}
	return nil
}

// contact is what an enrolment takes from the registration and from the person.
func (e Enrol) contact() Enrolment {
	to := Enrolment{
		AK: e.AK, EK: e.EK, Address: e.Address, Port: e.Port, Certificate: e.Certificate,
		FixedAddress: e.FixedAddress != "", FixedPort: e.FixedPort != 0,
	}
	if to.FixedAddress {
		to.Address = e.FixedAddress
	}
	if to.FixedPort {
		to.Port = e.FixedPort
	}
	return to
}

// Running reports whether rounds are run, of every stored node.
func (v *Verifier) Running() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loaded && v.ctx.Err() == nil
}

// ErrInvalid marks a request that can never succeed.
var ErrInvalid = errors.New("invalid request")

// resolve finds documents by name or digest; what is not there is named, all of it at once.
func (v *Verifier) resolve(ctx context.Context, names []string) ([]attest.PolicyRef, error) {
	var refs []attest.PolicyRef
	var missing []error
	for _, name := range names {
		p, err := v.cfg.Policies.Policy(ctx, name)
		if err != nil {
			missing = append(missing, fmt.Errorf("policy %.80q: %w", name, err))
			continue
		}
		if !slices.Contains(refs, p.Ref) {
			refs = append(refs, p.Ref)
		}
	}
	return refs, errors.Join(missing...)
}

// Show returns a node as its goroutine last published it.
func (v *Verifier) Show(id attest.AgentID) (Node, error) {
	w, err := v.worker(id)
	if err != nil {
		return Node{}, err
	}
	return *w.shown.Load(), nil
}

// List returns at most limit nodes after an id, in the order of ids, as their goroutines last published them.
func (v *Verifier) List(ctx context.Context, after attest.AgentID, limit int) ([]Node, error) {
	nodes, err := v.cfg.Store.Nodes(ctx, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range nodes {
		if shown, err := v.Show(nodes[i].ID); err == nil {
			nodes[i] = shown
		}
	}
	return nodes, nil
}

// Read returns the verdict that people see of a node, now.
func (v *Verifier) Read(n Node) attest.Verdict { return n.State.Read(v.cfg.Now(), v.Interval(n)) }

// KeylimeState is Read in Keylime's words.
func (v *Verifier) KeylimeState(n Node) int {
	return n.State.KeylimeState(v.cfg.Now(), v.Interval(n))
}

// Mute tells of the mute that is in force for a node, nil for none.
func (v *Verifier) Mute(n Node) *api.Mute { return n.State.Mute(v.cfg.Now(), v.Interval(n)) }

// Do carries out a person's act on a node.
func (v *Verifier) Do(ctx context.Context, id attest.AgentID, act machine.Act) error {
	return v.send(ctx, id, func(n Node) (Node, machine.Event, error) {
		if act == machine.Approve {
			if err := n.State.Approvable(); err != nil {
				return n, nil, err
			}
		}
		return n, machine.Asked{Now: v.cfg.Now(), Act: act}, nil
	})
}

// Update is a change of what applies to a node; nil members stay as they are.
type Update struct {
	Policies   *[]string
	Interval   *time.Duration
	Assignment *api.Assignment
	// ByOwner: it comes from the operator, on behalf of the object that assigns.
	ByOwner bool
}

// Update changes what applies to a node; changed policies judge the whole stored evidence of this boot.
func (v *Verifier) Update(ctx context.Context, id attest.AgentID, u Update) error {
	if u.Interval != nil {
		if err := checkInterval(*u.Interval); err != nil {
			return err
		}
	}
	var refs []attest.PolicyRef
	if u.Policies != nil {
		var err error
		if refs, err = v.resolve(ctx, *u.Policies); err != nil {
			return err
		}
	}
	return v.send(ctx, id, func(n Node) (Node, machine.Event, error) {
		if err := n.owned(); err != nil && !u.ByOwner {
			return n, nil, err
		}
		var event machine.Event = machine.Asked{Now: v.cfg.Now()}
		if u.Interval != nil {
			n.Interval = *u.Interval
		}
		if u.Policies != nil {
			n.Policies = refs
			event = machine.PoliciesChanged{Now: v.cfg.Now()}
		}
		if u.Assignment != nil {
			var anew bool
			if n, anew = n.assign(*u.Assignment); anew {
				event = machine.PoliciesChanged{Now: v.cfg.Now()}
			}
		}
		return n, event, nil
	})
}

// Cordon takes the operator's word on whether a node is cordoned. Saying the same again changes nothing.
func (v *Verifier) Cordon(ctx context.Context, id attest.AgentID, c api.Cordon) error {
	n, err := v.Show(id)
	if err != nil || n.State.Cordoned == c.Cordoned {
		return err
	}
	return v.send(ctx, id, func(n Node) (Node, machine.Event, error) {
		return n, machine.Cordoned{Now: v.cfg.Now(), Since: c.Since, On: c.Cordoned}, nil
	})
}

// Remove ends a node's rounds and deletes it with its evidence.
func (v *Verifier) Remove(ctx context.Context, id attest.AgentID) error { return v.send(ctx, id, nil) }

// send hands a command to the node's goroutine and waits for its answer.
func (v *Verifier) send(ctx context.Context, id attest.AgentID, change func(Node) (Node, machine.Event, error)) error {
	w, err := v.worker(id)
	if err != nil {
		return err
	}
	c := command{change: change, done: make(chan error, 1)}
	select {
	case w.inbox <- c:
	case <-w.ended:
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.absent(id)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Watch returns the transitions from now on; the channel is closed when the watcher is too slow. stop must be called.
func (v *Verifier) Watch() (events <-chan machine.Transition, stop func()) { return v.hub.watch() }
