package verifier

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/machine"
)

// endBoots implements what Store.Commit promises of boots.
func (n *memoryNode) endBoots(now machine.State) {
	if now.Boot == "" || now.Boot == n.boot {
		n.boot = now.Boot
		return
	}
	n.boot, n.ended = now.Boot, maps.Clone(n.ended)
	if n.ended == nil {
		n.ended = map[string]time.Time{}
	}
	delete(n.ended, now.Boot)
	for boot := range n.lists {
		if _, known := n.ended[boot]; !known && boot != now.Boot {
			n.ended[boot] = now.BootSince
		}
	}
}

// ExpireEvidence implements RetentionStore. The lists here have no parts.
func (m *MemoryStore) ExpireEvidence(_ context.Context, endedBy time.Time, _ int) (Expired, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expiry != nil {
		if err := m.expiry(); err != nil {
			return Expired{}, err
		}
	}
	for id, old := range m.nodes {
		for _, boot := range slices.Sorted(maps.Keys(old.ended)) {
			if old.ended[boot].After(endedBy) || boot == old.boot || boot == old.quotes[old.last].Boot {
				continue
			}
			n := old.copy()
			n.ended = maps.Clone(n.ended)
			delete(n.ended, boot)
			delete(n.lists, boot)
			delete(n.logs, boot)
			maps.DeleteFunc(n.quotes, func(_ attest.Digest, q machine.StoredQuote) bool { return q.Boot == boot })
			m.nodes[id] = n
			return Expired{Boots: 1}, nil
		}
	}
	return Expired{}, nil
}

// ExpireTokens implements RetentionStore.
func (m *MemoryStore) ExpireTokens(_ context.Context, expiredBy time.Time, limit int) (count int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens = slices.DeleteFunc(slices.Clone(m.tokens), func(t Token) bool {
		if count == limit || t.Expires.After(expiredBy) {
			return false
		}
		count++
		return true
	})
	return count, nil
}
