package registrar

import (
	"context"
	"fmt"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/wire"
)

// Show returns an active agent. ErrNotFound.
func (r *Registrar) Show(ctx context.Context, id attest.AgentID) (wire.AgentRecord, error) {
	record, err := r.lookup(ctx, id)
	switch {
	case err != nil:
		return wire.AgentRecord{}, err
	case record == nil:
		return wire.AgentRecord{}, notFound(id)
	case record.Active == nil && record.Waiting != nil:
		return wire.AgentRecord{}, refuse(ErrNotFound, "Agent with ID '%s' waits for approval: %s", id, record.Waiting.Reason)
	case record.Active == nil:
		return wire.AgentRecord{}, refuse(ErrNotFound, "Agent with ID '%s' has not been activated", id)
	}
	return recordOf(*record), nil
}

func recordOf(record Record) wire.AgentRecord {
	active := record.Active
	shown := wire.AgentRecord{
		AgentID: string(record.ID), EK: active.EK, AIK: active.AK, IP: &active.Address, Port: &active.Port, RegCount: record.Count,
	}
	if active.Certificate != "" {
		shown.Certificate = &active.Certificate
	}
	for i, der := range active.Chain {
		if i == 0 {
			shown.EKCert = der
		} else {
			shown.EKIssuers = append(shown.EKIssuers, der)
		}
	}
	return shown
}

// List returns the ids of all active agents, in order.
func (r *Registrar) List(ctx context.Context) ([]string, error) {
	ids := []string{}
	err := r.each(ctx, Active, func(record Record) { ids = append(ids, string(record.ID)) })
	return ids, err
}

// each calls visit for all records of a state.
func (r *Registrar) each(ctx context.Context, state State, visit func(Record)) error {
	var after attest.AgentID
	for {
		page, err := r.cfg.Store.List(ctx, state, after, pageOfRecords)
		if err != nil {
			return fmt.Errorf("list agents: %w", err)
		}
		for _, record := range page {
			visit(record)
			after = record.ID
		}
		if len(page) < pageOfRecords {
			return nil
		}
	}
}

// Delete forgets an agent, whatever its state. ErrNotFound.
func (r *Registrar) Delete(ctx context.Context, id attest.AgentID) error {
	err := r.cfg.Store.Update(ctx, id, func(old *Record) (*Record, error) {
		if old == nil {
			return nil, notFound(id)
		}
		return nil, nil
	})
	if err != nil {
		return wrap("delete agent %s", id, err)
	}
	return nil
}

// Pending returns the registrations that wait for a person, in the order of ids.
func (r *Registrar) Pending(ctx context.Context) ([]api.Pending, error) {
	now := r.cfg.Now()
	pending := []api.Pending{}
	err := r.each(ctx, AwaitsApproval, func(record Record) {
		if w := record.Waiting; w != nil && w.Expires.After(now) {
			pending = append(pending, api.Pending{
				Agent: record.ID, EK: record.EK, Reason: w.Reason, At: w.Registration.At, Endorsed: w.Registration.EndorsedBy != "",
			})
		}
	})
	return pending, err
}

// Approve makes a waiting registration active. ErrNotFound.
func (r *Registrar) Approve(ctx context.Context, id attest.AgentID) error {
	now := r.cfg.Now()
	err := r.cfg.Store.Update(ctx, id, func(old *Record) (*Record, error) {
		if old == nil {
			return nil, notFound(id)
		}
		if old.Waiting == nil || !old.Waiting.Expires.After(now) {
			return nil, refuse(ErrNotFound, "Agent with ID '%s' does not wait for approval", id)
		}
		activate(old, old.Waiting.Registration)
		return old, nil
	})
	if err != nil {
		return wrap("approve agent %s", id, err)
	}
	r.cfg.Log.Info("registration approved", "agent", id)
	return nil
}
