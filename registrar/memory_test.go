package registrar_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/registrar/storetest"
)

// memory is a store that can be made to fail in both ways: not stored, and stored but reported as failed.
type memory struct {
	mu      sync.Mutex
	records map[attest.AgentID]registrar.Record
	// refuse makes every write fail, lose makes it succeed and report a failure.
	refuse, lose bool
}

var errBroken = errors.New("the disk is broken")

func newMemory() *memory { return &memory{records: map[attest.AgentID]registrar.Record{}} }

// clone is what a database does to a record.
func clone(r registrar.Record) registrar.Record {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	var again registrar.Record
	if err := json.Unmarshal(text, &again); err != nil {
		panic(err)
	}
	return again
}

func (m *memory) Get(_ context.Context, id attest.AgentID) (registrar.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.records[id]
	if !ok {
		return r, fmt.Errorf("record %s: %w", id, registrar.ErrNotFound)
	}
	return clone(r), nil
}

func (m *memory) ByEK(_ context.Context, ek attest.AgentID) (registrar.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if ek != "" && r.EK == ek {
			return clone(r), nil
		}
	}
	return registrar.Record{}, registrar.ErrNotFound
}

func (m *memory) Update(ctx context.Context, id attest.AgentID, change func(*registrar.Record) (*registrar.Record, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var old *registrar.Record
	if r, ok := m.records[id]; ok {
		r = clone(r)
		old = &r
	}
	changed, err := change(old)
	if err := cmp.Or(err, ctx.Err()); err != nil {
		return err
	}
	if m.refuse {
		return errBroken
	}
	if changed == nil {
		delete(m.records, id)
	} else {
		for _, r := range m.records {
			if r.ID != id && r.EK != "" && r.EK == changed.EK {
				return registrar.ErrEKTaken
			}
		}
		m.records[id] = clone(*changed)
	}
	if m.lose {
		return errBroken
	}
	return nil
}

func (m *memory) List(_ context.Context, state registrar.State, after attest.AgentID, limit int) ([]registrar.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []registrar.Record
	for _, r := range m.records {
		in := r.Active != nil
		if state == registrar.AwaitsApproval {
			in = r.Waiting != nil
		}
		if in && r.ID > after {
			list = append(list, clone(r))
		}
	}
	slices.SortFunc(list, func(a, b registrar.Record) int { return cmp.Compare(a.ID, b.ID) })
	return list[:min(limit, len(list))], nil
}

func (m *memory) Sweep(_ context.Context, now time.Time) (registrar.Counts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var counts registrar.Counts
	for id, r := range m.records {
		r.Challenges = slices.DeleteFunc(slices.Clone(r.Challenges), func(c registrar.Challenge) bool { return !c.Expires.After(now) })
		if r.Waiting != nil && !r.Waiting.Expires.After(now) {
			r.Waiting = nil
			if r.Active == nil {
				r.EK = ""
			}
		}
		switch {
		case r.Active == nil && r.Waiting == nil && len(r.Challenges) == 0:
			delete(m.records, id)
			continue
		case r.Waiting != nil:
			counts.Waiting++
		case r.Active == nil:
			counts.Unproven++
		}
		if r.Active != nil && r.Active.NotEndorsed != "" {
			counts.Unendorsed++
		}
		m.records[id] = clone(r)
	}
	return counts, nil
}

func (m *memory) Displace(_ context.Context, from string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		shares := map[string][]registrar.Record{}
		most := from
		for _, r := range m.records {
			if r.Active == nil && r.Waiting == nil {
				source := r.Challenges[0].From
				shares[source] = append(shares[source], r)
			}
		}
		for source, records := range shares {
			if len(records) > len(shares[most]) {
				most = source
			}
		}
		if most == from {
			return false, nil
		}
		r := slices.MinFunc(shares[most], func(a, b registrar.Record) int { return a.Challenges[0].Expires.Compare(b.Challenges[0].Expires) })
		r.Challenges = slices.DeleteFunc(slices.Clone(r.Challenges), func(c registrar.Challenge) bool { return c.From == most })
		m.records[r.ID] = r
		if len(r.Challenges) == 0 {
			delete(m.records, r.ID)
			return true, nil
		}
	}
}

func TestMemoryKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) registrar.Store { return newMemory() })
}

// tokens are join tokens in memory; the key is the token's id.
type tokens struct {
	secrets map[string][]byte
	agents  map[string]attest.AgentID
	broken  bool
}

func (t *tokens) Redeem(_ context.Context, token string, secret []byte, agent attest.AgentID) error {
	if t.broken {
		return errBroken
	}
	want, known := t.secrets[token]
	if bound := t.agents[token]; !known || !bytes.Equal(want, secret) || bound != "" && bound != agent {
		return registrar.ErrToken
	}
	t.agents[token] = agent
	return nil
}
