package nodes

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// What one node's agent says of itself is rewritten at once when it changes, as at a start or a reboot, wordsBurst times at most, and then once in
// wordsInterval. Nothing of it is proven, and an agent that chose other words for each preflight would have the API server store each.
const (
	wordsInterval = 5 * time.Minute
	wordsBurst    = 6
)

// pace remembers how often agents' words were rewritten, by the UID of the Node. Its zero value is ready to use.
type pace struct {
	mu sync.Mutex
	// paid is until when a Node's rewritings are paid for, each with wordsInterval.
	paid map[types.UID]time.Time
}

// until says when a Node's words may be rewritten; what is past is now.
func (p *pace) until(node types.UID) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if paid, ok := p.paid[node]; ok {
		return paid.Add(-(wordsBurst - 1) * wordsInterval)
	}
	return time.Time{}
}

// rewritten notes that they were, and forgets what binds nobody any more, Nodes that are gone among it.
func (p *pace) rewritten(node types.UID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paid == nil {
		p.paid = map[types.UID]time.Time{}
	}
	for uid, paid := range p.paid {
		if paid.Before(now) {
			delete(p.paid, uid)
		}
	}
	from := now
	if paid, ok := p.paid[node]; ok {
		from = paid
	}
	p.paid[node] = from.Add(wordsInterval)
}
