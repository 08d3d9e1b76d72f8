package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier"
)

// Nodes implements verifier.Store and verifier.EvidenceStore.
type Nodes struct{ db *DB }

// Nodes returns the verifier's view of the database: enrolled nodes with their evidence.
func (db *DB) Nodes() *Nodes { return &Nodes{db} }

const selectNode = `SELECT id, version, round_interval, enrolment, state, assignment FROM nodes`

// Node implements verifier.Store.
func (s *Nodes) Node(ctx context.Context, id attest.AgentID) (n verifier.Node, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read node %q", id), func(tx *sql.Tx) error {
		n, err = one(ctx, tx, verifier.ErrNotFound, scanNode, selectNode+` WHERE id = ?`, string(id))
		if err != nil {
			return err
		}
		return assignments(ctx, tx, []verifier.Node{n}, func(_ int, refs []attest.PolicyRef) { n.Policies = refs })
	})
	return n, err
}

// Nodes implements verifier.Store.
func (s *Nodes) Nodes(ctx context.Context, after attest.AgentID, limit int) (list []verifier.Node, err error) {
	err = s.db.read(ctx, "list nodes", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanNode,
			selectNode+` WHERE id > ? ORDER BY id LIMIT ?`, string(after), max(limit, 0))
		if err != nil {
			return err
		}
		return assignments(ctx, tx, list, func(i int, refs []attest.PolicyRef) { list[i].Policies = refs })
	})
	return list, err
}

// Commit implements verifier.Store.
func (s *Nodes) Commit(ctx context.Context, c verifier.Commit) (version uint64, err error) {
	id := c.Node.ID
	err = s.db.write(ctx, fmt.Sprintf("commit node %q at version %d", id, c.Expect), func(tx *sql.Tx) error {
		if version, err = writeNode(ctx, tx, c); err != nil {
			return err
		}
		if err := assign(ctx, tx, id, c.Node.Policies); err != nil {
			return err
		}
		for _, chunk := range c.Chunks {
			if err := appendChunk(ctx, tx, id, chunk); err != nil {
				return err
			}
		}
		if c.BootLog != nil {
			if err := putBootLog(ctx, tx, id, c.Node.State.Boot, c.BootLog); err != nil {
				return err
			}
		}
		for _, q := range c.Quotes {
			if err := putQuote(ctx, tx, id, q); err != nil {
				return err
			}
		}
		if c.Transition != nil {
			if err := appendTransition(ctx, tx, id, *c.Transition); err != nil {
				return err
			}
		}
		if len(c.Quotes) > 0 {
			if err := dropOldQuotes(ctx, tx, id); err != nil {
				return err
			}
		}
		if err := endBoots(ctx, tx, c.Node); err != nil {
			return err
		}
		return reaction.Settle(book{ctx, tx}, id, c.Reaction, s.db.now())
	})
	if err != nil {
		return 0, err
	}
	return version, nil
}

// RemoveNode implements verifier.Store.
func (s *Nodes) RemoveNode(ctx context.Context, id attest.AgentID, expect uint64) error {
	return s.db.write(ctx, fmt.Sprintf("remove node %q at version %d", id, expect), func(tx *sql.Tx) error {
		have, err := nodeVersion(ctx, tx, id)
		if err != nil {
			return err
		}
		if have != expect {
			return fmt.Errorf("%w: it is at version %d", verifier.ErrConflict, have)
		}
		contents, err := contentsOf(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM nodes WHERE id = ?`, string(id)); err != nil { // the rest goes by cascade
			return err
		}
		if err := dropContents(ctx, tx, contents); err != nil {
			return err
		}
		return reaction.Settle(book{ctx, tx}, id, nil, s.db.now())
	})
}

// writeNode inserts the row, or updates it if it is still at the expected version, and returns the new one.
func writeNode(ctx context.Context, tx *sql.Tx, c verifier.Commit) (uint64, error) {
	enrolment, err := encode(c.Node.Enrolment)
	if err != nil {
		return 0, err
	}
	state, err := encode(c.Node.State)
	if err != nil {
		return 0, err
	}
	expect, err := toInt(c.Expect)
	if err != nil {
		return 0, err
	}
	assignment, err := encode(c.Node.Assignment)
	if err != nil {
		return 0, err
	}
	interval := c.Node.Interval.Nanoseconds()
	if expect == 0 {
		added, err := affected(ctx, tx, `INSERT INTO nodes (id, version, round_interval, enrolment, state, assignment, last_quote) VALUES (?, 1, ?, ?, ?, ?, '')
			ON CONFLICT (id) DO NOTHING`, string(c.Node.ID), interval, enrolment, state, assignment)
		if err == nil && added == 0 {
			err = verifier.ErrExists
		}
		return 1, err
	}
	changed, err := affected(ctx, tx, `UPDATE nodes SET version = version + 1, round_interval = ?, enrolment = ?, state = ?, assignment = ? WHERE id = ? AND version = ?`,
		interval, enrolment, state, assignment, string(c.Node.ID), expect)
	if err != nil || changed == 1 {
		return c.Expect + 1, err
	}
	have, err := nodeVersion(ctx, tx, c.Node.ID)
	if errors.Is(err, verifier.ErrNotFound) {
		return 0, fmt.Errorf("%w: the node was removed", verifier.ErrConflict)
	}
	if err != nil {
		return 0, err
	}
	return 0, fmt.Errorf("%w: it is at version %d", verifier.ErrConflict, have)
}

func nodeVersion(ctx context.Context, tx *sql.Tx, id attest.AgentID) (uint64, error) {
	return one(ctx, tx, verifier.ErrNotFound, func(rows *sql.Rows) (v uint64, err error) {
		err = rows.Scan(&v)
		return v, err
	}, `SELECT version FROM nodes WHERE id = ?`, string(id))
}

func scanNode(rows *sql.Rows) (n verifier.Node, err error) {
	var interval int64
	err = rows.Scan(&n.ID, &n.Version, &interval, document{&n.Enrolment}, document{&n.State}, document{&n.Assignment})
	n.Interval = time.Duration(interval)
	return n, err
}

// assign writes the assignments where they differ from the stored ones: most commits change none.
func assign(ctx context.Context, tx *sql.Tx, id attest.AgentID, refs []attest.PolicyRef) error {
	stored, err := query(ctx, tx, text, `SELECT policy FROM node_policies WHERE node = ? ORDER BY ordinal`, string(id))
	if err != nil {
		return err
	}
	same := len(stored) == len(refs)
	for i := 0; same && i < len(refs); i++ {
		same = stored[i] == refs[i].Digest.String()
	}
	if same {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM node_policies WHERE node = ?`, string(id)); err != nil {
		return err
	}
	for i, ref := range refs {
		if _, err := policyOrdinal(ctx, tx, ref.Digest); err != nil {
			return fmt.Errorf("assign policy %q (%s): %w", ref.Name, ref.Digest, err)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO node_policies (node, ordinal, policy) VALUES (?, ?, ?)`, string(id), i, ref.Digest.String())
		if err != nil {
			return err
		}
	}
	return nil
}

type assignment struct {
	node attest.AgentID
	ref  attest.PolicyRef
}

// assignments reads the policies of nodes that are sorted by id and gives those of each that has any to set, by its index.
func assignments(ctx context.Context, tx *sql.Tx, nodes []verifier.Node, set func(i int, refs []attest.PolicyRef)) error {
	if len(nodes) == 0 {
		return nil
	}
	rows, err := query(ctx, tx, scanAssignment, `SELECT a.node, p.kind, p.name, p.digest FROM node_policies a JOIN policies p ON p.digest = a.policy
		WHERE a.node >= ? AND a.node <= ? ORDER BY a.node, a.ordinal`, string(nodes[0].ID), string(nodes[len(nodes)-1].ID))
	if err != nil {
		return err
	}
	byNode := map[attest.AgentID][]attest.PolicyRef{}
	for _, row := range rows {
		byNode[row.node] = append(byNode[row.node], row.ref)
	}
	for i, node := range nodes {
		if refs := byNode[node.ID]; refs != nil {
			set(i, refs)
		}
	}
	return nil
}

func scanAssignment(rows *sql.Rows) (a assignment, err error) {
	var d digest
	err = rows.Scan(&a.node, &a.ref.Kind, &a.ref.Name, &d)
	a.ref.Digest = d.Digest
	return a, err
}
