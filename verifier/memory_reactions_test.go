package verifier

import (
	"context"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction/reactiontest"
)

// ViewReactions implements ReactionStore.
func (m *MemoryStore) ViewReactions(_ context.Context, look func(ReactionBook) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return look(m.reactions())
}

// ChangeReactions implements ReactionStore.
func (m *MemoryStore) ChangeReactions(_ context.Context, change func(ReactionBook) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.book.Copy()
	err := change(m.reactions())
	if err != nil {
		m.book = *before
	}
	return err
}

// rows are the reactions as they are now, and restore goes back to them.
func (m *MemoryStore) rows() *reactiontest.Book {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.book.Copy()
}

func (m *MemoryStore) restore(rows *reactiontest.Book) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.book = *rows
}

// reactions is the book with the bindings of the store.
func (m *MemoryStore) reactions() memoryReactions {
	m.book.Identities = map[attest.AgentID]api.KubernetesNode{}
	for _, b := range m.bound {
		m.book.Identities[b.Agent] = b.Node
	}
	return memoryReactions{&m.book, m}
}

type memoryReactions struct {
	*reactiontest.Book
	m *MemoryStore
}

// Node implements ReactionBook. The store is locked.
func (b memoryReactions) Node(id attest.AgentID) (Node, error) {
	n, ok := b.m.nodes[id]
	if !ok {
		return Node{}, ErrNotFound
	}
	return n.node(), nil
}
