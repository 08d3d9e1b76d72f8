package verifier

import (
	"context"
	"slices"
	"strings"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

func (m *MemoryStore) AddKey(_ context.Context, k api.ListedKey) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.keys, func(old api.ListedKey) bool { return old.EK == k.EK }) {
		m.keys = append(m.keys, k)
		slices.SortFunc(m.keys, func(a, b api.ListedKey) int { return strings.Compare(string(a.EK), string(b.EK)) })
	}
	return nil
}

func (m *MemoryStore) Keys(context.Context) ([]api.ListedKey, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.keys), nil
}

func (m *MemoryStore) RemoveKey(_ context.Context, ek attest.AgentID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return remove(&m.keys, func(k api.ListedKey) bool { return k.EK == ek })
}

func (m *MemoryStore) Distrust(_ context.Context, d Distrusted) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.ContainsFunc(m.distrusted, func(old Distrusted) bool { return old.Fingerprint == d.Fingerprint }) {
		m.distrusted = append(m.distrusted, d)
	}
	return nil
}

func (m *MemoryStore) Distrusted(context.Context) ([]Distrusted, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.distrusted), nil
}
