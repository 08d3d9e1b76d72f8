package httpapi

import (
	"sync"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// maxReports bounds what is kept of agents that are not enrolled: anybody can prove a TPM of his own making. Beyond it an arbitrary report gives
// way; a living agent sends it again with its next session.
const maxReports = 1024

// reports hold what agents last said of themselves. They are for people: no check reads them.
type reports struct {
	enrolled func(attest.AgentID) bool

	mu        sync.Mutex
	by        map[attest.AgentID]api.AgentReport
	strangers map[attest.AgentID]bool // those in by that were not enrolled when they last reported
}

func newReports(enrolled func(attest.AgentID) bool) *reports {
	return &reports{enrolled: enrolled, by: make(map[attest.AgentID]api.AgentReport), strangers: make(map[attest.AgentID]bool)}
}

func (r *reports) of(id attest.AgentID) *api.AgentReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if report, ok := r.by[id]; ok {
		return &report
	}
	return nil
}

func (r *reports) update(id attest.AgentID, change func(*api.AgentReport)) {
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

// forget drops the report of a node that was removed.
func (r *reports) forget(id attest.AgentID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

func (r *reports) drop(id attest.AgentID) {
	delete(r.by, id)
	delete(r.strangers, id)
}
