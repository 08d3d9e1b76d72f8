package sqlstore

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
)

// Bindings implements verifier.BindingStore.
type Bindings struct{ db *DB }

// Bindings returns the bindings of agents to Kubernetes nodes.
func (db *DB) Bindings() *Bindings { return &Bindings{db} }

// Bind implements verifier.BindingStore.
func (s *Bindings) Bind(ctx context.Context, b verifier.Binding) error {
	return s.db.write(ctx, fmt.Sprintf("bind node %q to agent %q", b.Node.Name, b.Agent), func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM node_bindings WHERE agent = ? OR node_name = ?`, string(b.Agent), b.Node.Name); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO node_bindings (agent, node_name, node_uid, at) VALUES (?, ?, ?, ?)`,
			string(b.Agent), b.Node.Name, b.Node.UID, instant{b.At}.nanos())
		return err
	})
}

// BindingOf implements verifier.BindingStore.
func (s *Bindings) BindingOf(ctx context.Context, agent attest.AgentID) (b verifier.Binding, err error) {
	err = s.db.read(ctx, fmt.Sprintf("find the node of agent %q", agent), func(tx *sql.Tx) error {
		b, err = one(ctx, tx, verifier.ErrNotFound, scanBinding, `SELECT agent, node_name, node_uid, at FROM node_bindings WHERE agent = ?`, string(agent))
		return err
	})
	return b, err
}

// BindingFor implements verifier.BindingStore.
func (s *Bindings) BindingFor(ctx context.Context, nodeName string) (b verifier.Binding, err error) {
	err = s.db.read(ctx, fmt.Sprintf("find the agent of node %q", nodeName), func(tx *sql.Tx) error {
		b, err = one(ctx, tx, verifier.ErrNotFound, scanBinding, `SELECT agent, node_name, node_uid, at FROM node_bindings WHERE node_name = ?`, nodeName)
		return err
	})
	return b, err
}

// Unbind implements verifier.BindingStore.
func (s *Bindings) Unbind(ctx context.Context, agent attest.AgentID) error {
	return s.db.write(ctx, fmt.Sprintf("free the node of agent %q", agent), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM node_bindings WHERE agent = ?`, string(agent))
		return err
	})
}

func scanBinding(rows *sql.Rows) (b verifier.Binding, err error) {
	var at instant
	err = rows.Scan(&b.Agent, &b.Node.Name, &b.Node.UID, &at)
	b.At = at.Time
	return b, err
}
