package identity

import (
	"sync"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// maxReports bounds what is kept of agents that are not enrolled: anybody can prove a TPM of his own making. Beyond it an arbitrary report gives
// way; a living agent sends it again with its next session.
const maxReports = 1024

// Reports hold what agents last said of themselves. They are for people: no check reads them.
type Reports struct {
	enrolled func(attest.AgentID) bool

	mu        sync.Mutex
	by        map[attest.AgentID]api.AgentReport
	strangers map[attest.AgentID]bool // those in by that were not enrolled when they last reported
}

// NewReports keeps the reports of all that are enrolled, and of some others.
func NewReports(enrolled func(attest.AgentID) bool) *Reports {
	return &Reports{enrolled: enrolled, by: make(map[attest.AgentID]api.AgentReport), strangers: make(map[attest.AgentID]bool)}
}

// Of returns what an agent last said, nil for nothing.
func (r *Reports) Of(id attest.AgentID) *api.AgentReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if report, ok := r.by[id]; ok {
		return &report
	}
	return nil
}

// Update changes what an agent said.
func (r *Reports) Update(id attest.AgentID, change func(*api.AgentReport)) {
	enrolled := r.enrolled(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case enrolled:
		delete(r.strangers, id)
	case !r.strangers[id]:
		if len(r.strangers) >= maxReports {
			for other := range r.strangers {
				r.drop(other)
				break
			}
		}
		r.strangers[id] = true
	}
	report := r.by[id]
	change(&report)
	r.by[id] = report
}

// Forget drops the report of a node that was removed.
func (r *Reports) Forget(id attest.AgentID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

func (r *Reports) drop(id attest.AgentID) {
	delete(r.by, id)
	delete(r.strangers, id)
}
