package httpapi

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
	// presenceLifetime is how long an agent without a TPM is shown after its last word.
	presenceLifetime = 24 * time.Hour
	// maxPresences bounds the agents without a TPM, each of which holds a join token or a token that the operator accepted.
	maxPresences = 20_000
)

// errTooMany says that no more agents without a TPM are kept.
var errTooMany = fmt.Errorf("there are %d agents without a TPM already", maxPresences)

// presences are the agents without a TPM: what they said, and since when. They live in memory: there is no evidence to keep, and a living agent is back within a heartbeat.
type presences struct {
	now func() time.Time

	mu sync.Mutex
	by map[attest.AgentID]presence
}

// Presence is an agent without a TPM.
type presence struct {
	ID     attest.AgentID
	Node   *api.KubernetesNode // nil for one with a join token
	Since  time.Time
	Report api.AgentReport // what it last said
}

func newPresences(now func() time.Time) *presences {
	return &presences{now: now, by: make(map[attest.AgentID]presence)}
}

// update changes what an agent without a TPM said; from is the agent, whose report is not looked at.
func (p *presences) update(from presence, change func(*api.AgentReport)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	known, ok := p.by[from.ID]
	if !ok {
		if len(p.by) >= maxPresences {
			p.sweep(now)
		}
		if len(p.by) >= maxPresences {
			return errTooMany
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

func (p *presences) sweep(now time.Time) {
	maps.DeleteFunc(p.by, func(_ attest.AgentID, known presence) bool { return now.Sub(known.Report.At) > presenceLifetime })
}

// forget removes an agent and reports whether there was one.
func (p *presences) forget(id attest.AgentID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.by[id]
	delete(p.by, id)
	return known
}

// forgetNode removes the agents of a Kubernetes node.
func (p *presences) forgetNode(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.by, func(_ attest.AgentID, known presence) bool { return known.Node != nil && known.Node.Name == name })
}

// of returns one agent.
func (p *presences) of(id attest.AgentID) (presence, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(p.now())
	known, ok := p.by[id]
	return known, ok
}

// after returns the agents with ids after the given one, in the order of ids.
func (p *presences) after(id attest.AgentID) []presence {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweep(p.now())
	var list []presence
	for _, known := range slices.Sorted(maps.Keys(p.by)) {
		if known > id {
			list = append(list, p.by[known])
		}
	}
	return list
}
