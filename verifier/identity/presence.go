package identity

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

const (
	// PresenceLifetime is how long an agent without a TPM is shown after its last word.
	PresenceLifetime = 24 * time.Hour
	// maxPresences bounds the agents without a TPM, each of which holds a join token or a token that the operator accepted.
	maxPresences = 20_000
)

// ErrTooMany says that no more agents without a TPM are kept.
var ErrTooMany = fmt.Errorf("there are %d agents without a TPM already", maxPresences)

// Presences are the agents without a TPM: what they said, and since when. They live in memory: there is no evidence to keep, and a living agent is back within a heartbeat.
type Presences struct {
	now func() time.Time

	mu sync.Mutex
	by map[attest.AgentID]Presence
}

// Presence is an agent without a TPM.
type Presence struct {
	ID     attest.AgentID
	Node   *api.KubernetesNode // nil for one with a join token
	Since  time.Time
	Report api.AgentReport // what it last said
}

// NewPresences keeps presences by a clock.
func NewPresences(now func() time.Time) *Presences {
	return &Presences{now: now, by: make(map[attest.AgentID]Presence)}
}

// Update changes what an agent without a TPM said; from is the agent, whose report is not looked at.
func (p *Presences) Update(from Presence, change func(*api.AgentReport)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	known, ok := p.by[from.ID]
	if !ok {
		if len(p.by) >= maxPresences {
			p.sweep(now)
		}
		if len(p.by) >= maxPresences {
			return ErrTooMany
		}
		known.Since, known.Node = now, from.Node
	}
	if (known.Node == nil) != (from.Node == nil) {
		return fmt.Errorf("agent %s: %w", from.ID, verifier.ErrExists) // a name under a join token is not the UID of a node
	}
	known.ID, known.Node = from.ID, from.Node
	known.Report.At = now
	change(&known.Report)
	p.by[from.ID] = known
	return nil
}

func (p *Presences) sweep(now time.Time) {
	maps.DeleteFunc(p.by, func(_ attest.AgentID, known Presence) bool { return now.Sub(known.Report.At) > PresenceLifetime })
}

// Forget removes an agent and reports whether there was one.
func (p *Presences) Forget(id attest.AgentID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.by[id]
	delete(p.by, id)
	return known
}

// ForgetNode removes the agents of a Kubernetes node.
func (p *Presences) ForgetNode(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.by, func(_ attest.AgentID, known Presence) bool { return known.Node != nil && known.Node.Name == name })
}

// Of returns one agent.
func (p *Presences) Of(id attest.AgentID) (Presence, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(p.now())
	known, ok := p.by[id]
	return known, ok
}

// After returns the agents with ids after the given one, in the order of ids.
func (p *Presences) After(id attest.AgentID) []Presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(p.now())
	var list []Presence
	for _, known := range slices.Sorted(maps.Keys(p.by)) {
		if known > id {
			list = append(list, p.by[known])
		}
	}
	return list
}
