package verifier

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/reaction/reactiontest"
	"github.com/assay-project/assay/verifier/machine"
)

// MemoryStore is a store in maps, which passes storetest. Tests let its writes fail before and after they happened.
type MemoryStore struct {
	mu       sync.Mutex
	nodes    map[attest.AgentID]memoryNode
	policies []StoredPolicy
	roots    []Root
	tokens   []Token
	book     reactiontest.Book
	bound    []Binding
	keys     []api.ListedKey

	distrusted []Distrusted
	commits    []Commit // all that were written, in order

	// before makes a write fail that did not happen, after one that did.
	before, after func(Commit) error
	// expiry makes ExpireEvidence fail.
	expiry func() error
}

type memoryNode struct {
	row         []byte // as JSON: a row is no reference into the writer's memory
	policies    []attest.PolicyRef
	version     uint64
	transitions []machine.Transition
	lists       map[string]machine.Chunk
	logs        map[string][]byte
	quotes      map[attest.Digest]machine.StoredQuote
	last        attest.Digest
	boot        string
	ended       map[string]time.Time
}

// NewMemoryStore makes an empty one.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{nodes: map[attest.AgentID]memoryNode{}}
}

// copy is what another server, or this one after a crash, finds.
func (m *MemoryStore) copy() *MemoryStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &MemoryStore{nodes: map[attest.AgentID]memoryNode{}, policies: slices.Clone(m.policies), book: *m.book.Copy()}
	for id, n := range m.nodes {
		c.nodes[id] = n.copy()
	}
	return c
}

func (n memoryNode) copy() memoryNode {
	n.transitions, n.lists, n.logs, n.quotes = slices.Clone(n.transitions), maps.Clone(n.lists), maps.Clone(n.logs), maps.Clone(n.quotes)
	return n
}

func (n memoryNode) node() Node {
	var out Node
	if err := json.Unmarshal(n.row, &out); err != nil {
		panic(err)
	}
	out.Version, out.Policies = n.version, n.policies
	return out
}

func (m *MemoryStore) Node(_ context.Context, id attest.AgentID) (Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[id]
	if !ok {
		return Node{}, ErrNotFound
	}
	return n.node(), nil
}

func (m *MemoryStore) Nodes(_ context.Context, after attest.AgentID, limit int) ([]Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Node
	for _, id := range slices.Sorted(maps.Keys(m.nodes)) {
		if id > after && len(all) < limit {
			all = append(all, m.nodes[id].node())
		}
	}
	return all, nil
}

func (m *MemoryStore) Commit(ctx context.Context, c Commit) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	before, after := m.before, m.after
	m.mu.Unlock()
	if before != nil {
		if err := before(c); err != nil {
			return 0, err
		}
	}
	version, err := m.commit(c)
	if err == nil && after != nil {
		err = after(c)
	}
	return version, err
}

func (m *MemoryStore) commit(c Commit) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, known := m.nodes[c.Node.ID]
	switch {
	case known && c.Expect == 0:
		return 0, ErrExists
	case old.version != c.Expect:
		return 0, ErrConflict
	}
	n := old.copy()
	if !known {
		n = memoryNode{lists: map[string]machine.Chunk{}, logs: map[string][]byte{}, quotes: map[attest.Digest]machine.StoredQuote{}}
	}
	for _, ref := range c.Node.Policies {
		if !slices.ContainsFunc(m.policies, func(p StoredPolicy) bool { return p.Ref == ref }) {
			return 0, fmt.Errorf("policy %s: %w", ref.Name, ErrNotFound)
		}
	}
	var err error
	if n.row, err = json.Marshal(c.Node); err != nil {
		return 0, err
	}
	n.policies, n.version = slices.Clone(c.Node.Policies), c.Expect+1
	if err := n.addEvidence(c); err != nil {
		return 0, err
	}
	n.endBoots(c.Node.State)
	m.nodes[c.Node.ID] = n
	m.commits = append(m.commits, c)
	return n.version, reaction.Settle(m.reactions(), c.Node.ID, c.Reaction, time.Now())
}

func (n *memoryNode) addEvidence(c Commit) error {
	for _, chunk := range c.Chunks {
		list := n.lists[chunk.Boot]
		if chunk.First == 0 {
			list = machine.Chunk{Boot: chunk.Boot}
		}
		if chunk.First != list.Count || chunk.Count == 0 {
			return fmt.Errorf("chunk at %d, the list ends at %d", chunk.First, list.Count)
		}
		list.Count += chunk.Count
		list.ASCII = append(bytes.Clone(list.ASCII), chunk.ASCII...)
		n.lists[chunk.Boot] = list
	}
	if c.BootLog != nil {
		n.logs[c.Node.State.Boot] = c.BootLog
	}
	for _, q := range c.Quotes {
		n.quotes[q.Digest], n.last = q, q.Digest
	}
	if t := c.Transition; t != nil {
		if slices.ContainsFunc(n.transitions, func(old machine.Transition) bool { return old.Seq == t.Seq }) {
			return fmt.Errorf("transition %d: %w", t.Seq, ErrExists)
		}
		n.transitions = append(n.transitions, *t)
	}
	maps.DeleteFunc(n.quotes, func(d attest.Digest, _ machine.StoredQuote) bool {
		return d != n.last && !slices.ContainsFunc(n.transitions, func(t machine.Transition) bool { return t.Quote == d })
	})
	return nil
}

func (m *MemoryStore) RemoveNode(_ context.Context, id attest.AgentID, expect uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.nodes[id]
	if !ok {
		return ErrNotFound
	}
	if n.version != expect {
		return ErrConflict
	}
	delete(m.nodes, id)
	return reaction.Settle(m.reactions(), id, nil, time.Now())
}

func (m *MemoryStore) List(_ context.Context, id attest.AgentID, boot string) (machine.Chunk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if list, ok := m.nodes[id].lists[boot]; ok {
		return list, nil
	}
	return machine.Chunk{}, ErrNotFound
}

func (m *MemoryStore) BootLog(_ context.Context, id attest.AgentID, boot string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if log, ok := m.nodes[id].logs[boot]; ok {
		return log, nil
	}
	return nil, ErrNotFound
}

func (m *MemoryStore) Quote(_ context.Context, id attest.AgentID, digest attest.Digest) (machine.StoredQuote, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[id]
	if digest.IsZero() {
		digest = n.last
	}
	if q, ok := n.quotes[digest]; ok {
		return q, nil
	}
	if !digest.IsZero() && slices.ContainsFunc(n.transitions, func(t machine.Transition) bool { return t.Quote == digest }) {
		return machine.StoredQuote{}, ErrExpired
	}
	return machine.StoredQuote{}, ErrNotFound
}

func (m *MemoryStore) Transitions(_ context.Context, id attest.AgentID, after uint64, limit int) ([]machine.Transition, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var page []machine.Transition
	for _, t := range m.nodes[id].transitions {
		if t.Seq > after && len(page) < limit {
			page = append(page, t)
		}
	}
	return page, nil
}

func (m *MemoryStore) AddPolicy(_ context.Context, p StoredPolicy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.policies, func(old StoredPolicy) bool { return old.Ref.Digest == p.Ref.Digest }) {
		m.policies = append(m.policies, p)
	}
	return nil
}

func (m *MemoryStore) Policy(_ context.Context, nameOrDigest string) (StoredPolicy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range slices.Backward(m.policies) {
		if p.Ref.Name == nameOrDigest || p.Ref.Digest.String() == nameOrDigest {
			return p, nil
		}
	}
	return StoredPolicy{}, ErrNotFound
}

func (m *MemoryStore) Policies(_ context.Context, after attest.Digest, limit int) ([]StoredPolicy, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from := 1 + slices.IndexFunc(m.policies, func(p StoredPolicy) bool { return p.Ref.Digest == after })
	if from == 0 && !after.IsZero() {
		return nil, ErrNotFound
	}
	page := slices.Clone(m.policies[from:min(from+limit, len(m.policies))])
	for i := range page {
		page[i].Bytes = nil
	}
	return page, nil
}

func (m *MemoryStore) RemovePolicy(_ context.Context, digest attest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.nodes {
		if slices.ContainsFunc(n.policies, func(ref attest.PolicyRef) bool { return ref.Digest == digest }) {
			return ErrInUse
		}
	}
	return remove(&m.policies, func(p StoredPolicy) bool { return p.Ref.Digest == digest })
}

func remove[T any](from *[]T, which func(T) bool) error {
	count := len(*from)
	*from = slices.DeleteFunc(slices.Clone(*from), which)
	if len(*from) == count {
		return ErrNotFound
	}
	return nil
}

func (m *MemoryStore) AddRoot(_ context.Context, r Root) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.roots, func(old Root) bool { return old.Fingerprint == r.Fingerprint }) {
		m.roots = append(m.roots, r)
		slices.SortFunc(m.roots, func(a, b Root) int { return strings.Compare(a.Subject, b.Subject) })
	}
	return nil
}

func (m *MemoryStore) Roots(context.Context) ([]Root, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.roots), nil
}

func (m *MemoryStore) RemoveRoot(_ context.Context, fingerprint attest.Digest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return remove(&m.roots, func(r Root) bool { return r.Fingerprint == fingerprint })
}

func (m *MemoryStore) AddToken(_ context.Context, t Token) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.ContainsFunc(m.tokens, func(old Token) bool { return old.ID == t.ID }) {
		return ErrExists
	}
	m.tokens = append(m.tokens, t)
	slices.SortFunc(m.tokens, func(a, b Token) int { return cmp.Compare(a.Created.UnixNano(), b.Created.UnixNano()) })
	return nil
}

func (m *MemoryStore) Tokens(context.Context) ([]Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.tokens), nil
}

func (m *MemoryStore) RevokeToken(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return remove(&m.tokens, func(t Token) bool { return t.ID == id })
}

func (m *MemoryStore) Bind(_ context.Context, b Binding) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bound = slices.DeleteFunc(m.bound, func(old Binding) bool { return old.Agent == b.Agent || old.Node.Name == b.Node.Name })
	m.bound = append(m.bound, b)
	return nil
}

func (m *MemoryStore) BindingOf(_ context.Context, agent attest.AgentID) (Binding, error) {
	return m.binding(func(b Binding) bool { return b.Agent == agent })
}

func (m *MemoryStore) BindingFor(_ context.Context, nodeName string) (Binding, error) {
	return m.binding(func(b Binding) bool { return b.Node.Name == nodeName })
}

func (m *MemoryStore) binding(is func(Binding) bool) (Binding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := slices.IndexFunc(m.bound, is); i >= 0 {
		return m.bound[i], nil
	}
	return Binding{}, ErrNotFound
}

func (m *MemoryStore) Unbind(_ context.Context, agent attest.AgentID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bound = slices.DeleteFunc(m.bound, func(old Binding) bool { return old.Agent == agent })
	return nil
}

// fail sets what writes do.
func (m *MemoryStore) fail(before, after func(Commit) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before, m.after = before, after
}

func (m *MemoryStore) written() []Commit {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.commits)
}
