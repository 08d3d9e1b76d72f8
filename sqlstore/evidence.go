package sqlstore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/machine"
)

// errDamaged says that stored evidence is not what was stored.
var errDamaged = errors.New("the database is damaged")

// List implements verifier.EvidenceStore.
func (s *Nodes) List(ctx context.Context, id attest.AgentID, boot string) (c machine.Chunk, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read list of %q", id), func(tx *sql.Tx) error {
		c, err = readList(ctx, tx, id, boot)
		return err
	})
	return c, err
}

// BootLog implements verifier.EvidenceStore.
func (s *Nodes) BootLog(ctx context.Context, id attest.AgentID, boot string) (log []byte, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read boot log of %q", id), func(tx *sql.Tx) error {
		log, err = one(ctx, tx, verifier.ErrNotFound, scanContent,
			`SELECT c.digest, c.bytes FROM boot_logs b JOIN contents c ON c.digest = b.content WHERE b.node = ? AND b.boot = ?`, string(id), boot)
		return err
	})
	return log, err
}

func readList(ctx context.Context, tx *sql.Tx, id attest.AgentID, boot string) (machine.Chunk, error) {
	parts, err := query(ctx, tx, scanPart, `SELECT p.first_entry, p.entries, c.digest, c.bytes FROM list_parts p JOIN contents c ON c.digest = p.content
		WHERE p.node = ? AND p.boot = ? ORDER BY p.first_entry`, string(id), boot)
	if err != nil {
		return machine.Chunk{}, err
	}
	if len(parts) == 0 {
		return machine.Chunk{}, verifier.ErrNotFound
	}
	list := machine.Chunk{Boot: boot}
	for _, part := range parts {
		if part.First != list.Count {
			return machine.Chunk{}, fmt.Errorf("%w: entries %d to %d are missing", errDamaged, list.Count, part.First)
		}
		list.Count += part.Count
		list.ASCII = append(list.ASCII, part.ASCII...)
	}
	return list, nil
}

func scanPart(rows *sql.Rows) (c machine.Chunk, err error) {
	var sum digest
	if err = rows.Scan(&c.First, &c.Count, &sum, &c.ASCII); err == nil {
		err = checkContent(sum.Digest, c.ASCII)
	}
	return c, err
}

func scanContent(rows *sql.Rows) (content []byte, err error) {
	var sum digest
	if err = rows.Scan(&sum, &content); err == nil {
		err = checkContent(sum.Digest, content)
	}
	return content, err
}

func checkContent(want attest.Digest, content []byte) error {
	if have := attest.SHA256.Sum(content); have != want {
		return fmt.Errorf("%w: content %s hashes to %s", errDamaged, want, have)
	}
	return nil
}

// appendChunk puts a chunk at the end of its boot's list, or in place of the list if it starts at 0.
func appendChunk(ctx context.Context, tx *sql.Tx, id attest.AgentID, c machine.Chunk) error {
	if c.Count == 0 || len(c.ASCII) == 0 {
		return fmt.Errorf("chunk of boot %q at entry %d is empty", c.Boot, c.First)
	}
	first, err := toInt(c.First)
	if err != nil {
		return fmt.Errorf("chunk of boot %q: %w", c.Boot, err)
	}
	count, err := toInt(c.Count)
	if err != nil {
		return fmt.Errorf("chunk of boot %q: %w", c.Boot, err)
	}
	if first == 0 {
		if err := dropList(ctx, tx, id, c.Boot); err != nil {
			return err
		}
	}
	end, err := listEnd(ctx, tx, id, c.Boot)
	if err != nil {
		return err
	}
	if first != end {
		return fmt.Errorf("chunk of boot %q starts at entry %d, the stored list ends at %d", c.Boot, first, end)
	}
	ascii := c.ASCII
	if !bytes.HasSuffix(ascii, []byte("\n")) { // the next chunk must not run into the last line of this one
		ascii = append(bytes.Clone(ascii), '\n')
	}
	content, err := putContent(ctx, tx, ascii)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO list_parts (node, boot, first_entry, entries, content) VALUES (?, ?, ?, ?, ?)`,
		string(id), c.Boot, first, count, content.String())
	return err
}

func listEnd(ctx context.Context, tx *sql.Tx, id attest.AgentID, boot string) (end int64, err error) {
	err = tx.QueryRowContext(ctx, `SELECT coalesce(max(first_entry + entries), 0) FROM list_parts WHERE node = ? AND boot = ?`, string(id), boot).Scan(&end)
	return end, err
}

func dropList(ctx context.Context, tx *sql.Tx, id attest.AgentID, boot string) error {
	contents, err := query(ctx, tx, text, `SELECT DISTINCT content FROM list_parts WHERE node = ? AND boot = ?`, string(id), boot)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM list_parts WHERE node = ? AND boot = ?`, string(id), boot); err != nil {
		return err
	}
	return dropContents(ctx, tx, contents)
}

func putBootLog(ctx context.Context, tx *sql.Tx, id attest.AgentID, boot string, log []byte) error {
	before, err := query(ctx, tx, text, `SELECT content FROM boot_logs WHERE node = ? AND boot = ?`, string(id), boot)
	if err != nil {
		return err
	}
	content, err := putContent(ctx, tx, log)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO boot_logs (node, boot, content) VALUES (?, ?, ?) ON CONFLICT (node, boot) DO UPDATE SET content = excluded.content`,
		string(id), boot, content.String())
	if err != nil {
		return err
	}
	return dropContents(ctx, tx, before)
}

func putContent(ctx context.Context, tx *sql.Tx, content []byte) (attest.Digest, error) {
	sum := attest.SHA256.Sum(content)
	_, err := tx.ExecContext(ctx, `INSERT INTO contents (digest, bytes) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING`, sum.String(), nonNil(content))
	return sum, err
}

// contentsOf lists what a node's evidence consists of.
func contentsOf(ctx context.Context, tx *sql.Tx, id attest.AgentID) ([]string, error) {
	return query(ctx, tx, text, `SELECT content FROM list_parts WHERE node = ? UNION SELECT content FROM boot_logs WHERE node = ?`, string(id), string(id))
}

// dropContents deletes those contents that nothing refers to any more.
func dropContents(ctx context.Context, tx *sql.Tx, contents []string) error {
	for _, content := range contents {
		_, err := tx.ExecContext(ctx, `DELETE FROM contents WHERE digest = ?
			AND NOT EXISTS (SELECT 1 FROM list_parts WHERE list_parts.content = contents.digest)
			AND NOT EXISTS (SELECT 1 FROM boot_logs WHERE boot_logs.content = contents.digest)`, content)
		if err != nil {
			return err
		}
	}
	return nil
}
