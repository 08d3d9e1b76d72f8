package machine

import "time"

// Event is what happens to a node: one of Due, Answered, Unanswered, PoliciesChanged, Asked, Moved, Reimaged, Cordoned.
type Event interface{ at() time.Time }

// Due: it is time for a round. Nonce is fresh and random, 20 letters and digits.
type Due struct {
	Now   time.Time
	Nonce string
}

// Answered: the agent answered a round. Nothing in the answer is verified yet. Malformed says why the answer could not
// even be parsed, Foreign that somebody else answered, who does not hold the TLS key that the registrar has of the agent now; then Answer is empty.
type Answered struct {
	Now       time.Time
	Request   Request
	Answer    Answer
	Malformed string
	Foreign   string
}

// Unanswered: no answer, a broken connection, a status of 500 and up.
type Unanswered struct {
	Now    time.Time
	Reason string
}

// PoliciesChanged: other documents apply now. Stored is the whole evidence of this boot, nil when there is none.
type PoliciesChanged struct {
	Now    time.Time
	Stored *Stored
}

// Asked: a person asked for something.
type Asked struct {
	Now time.Time
	Act Act
}

// Moved: the agent registered another address, port or TLS certificate. It is no evidence and moves no verdict.
type Moved struct{ Now time.Time }

// Reimaged: another AK of the same TPM is enrolled from now on. Old and New are the names of the two.
type Reimaged struct {
	Now      time.Time
	Old, New []byte
}

// Act is a person's act on a node.
type Act string

// The acts: stop the rounds, go on with them, judge everything again from the start of the list.
const (
	Pause    Act = "pause"
	Resume   Act = "resume"
	Reattest Act = "reattest"
)

func (e Due) at() time.Time             { return e.Now }
func (e Answered) at() time.Time        { return e.Now }
func (e Unanswered) at() time.Time      { return e.Now }
func (e PoliciesChanged) at() time.Time { return e.Now }
func (e Asked) at() time.Time           { return e.Now }
func (e Moved) at() time.Time           { return e.Now }
func (e Reimaged) at() time.Time        { return e.Now }

// Action is what the driver does after a step: one of Collect, Schedule, Keep, Record.
type Action interface{ action() }

// Collect asks the agent for evidence.
type Collect struct{ Request Request }

// Schedule sets the node's only timer. The driver adds jitter.
type Schedule struct{ After time.Duration }

// Keep hands accepted evidence to the store; it may wait for the next batch.
type Keep struct {
	Quote   *StoredQuote
	Chunk   *Chunk
	BootLog []byte
}

// Record makes a transition durable, at once and with all that was kept before.
type Record struct{ Transition Transition }

func (Collect) action()  {}
func (Schedule) action() {}
func (Keep) action()     {}
func (Record) action()   {}
