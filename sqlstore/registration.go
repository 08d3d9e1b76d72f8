package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/registrar"
)

// Registrations implements registrar.Store.
type Registrations struct{ db *DB }

// Registrations returns the registrar's view of the database.
func (db *DB) Registrations() *Registrations { return &Registrations{db} }

// Get implements registrar.Store.
func (s *Registrations) Get(ctx context.Context, id attest.AgentID) (r registrar.Record, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read registration of %q", id), func(tx *sql.Tx) error {
		r, err = getRegistration(ctx, tx, id)
		return err
	})
	return r, err
}

// ByEK implements registrar.Store.
func (s *Registrations) ByEK(ctx context.Context, ek attest.AgentID) (r registrar.Record, err error) {
	err = s.db.read(ctx, fmt.Sprintf("read registration with EK %q", ek), func(tx *sql.Tx) error {
		r, err = one(ctx, tx, registrar.ErrNotFound, scanRegistration, `SELECT document FROM registrations WHERE ek = ?`, string(ek))
		return err
	})
	return r, err
}

// Update implements registrar.Store.
func (s *Registrations) Update(ctx context.Context, id attest.AgentID, change func(old *registrar.Record) (*registrar.Record, error)) error {
	return s.db.write(ctx, fmt.Sprintf("update registration of %q", id), func(tx *sql.Tx) error {
		var before *registrar.Record
		found, err := query(ctx, tx, scanRegistration, `SELECT document FROM registrations WHERE id = ?`, string(id))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			before = &found[0]
		}
		after, err := change(before)
		if err != nil {
			return err
		}
		if after == nil {
			return deleteRegistration(ctx, tx, id)
		}
		if after.ID != id {
			return fmt.Errorf("the record to be stored names %q", after.ID)
		}
		return putRegistration(ctx, tx, *after)
	})
}

// List implements registrar.Store.
func (s *Registrations) List(ctx context.Context, state registrar.State, after attest.AgentID, limit int) (list []registrar.Record, err error) {
	statement := `SELECT document FROM registrations WHERE active = 1 AND id > ? ORDER BY id LIMIT ?`
	switch state {
	case registrar.Active:
	case registrar.AwaitsApproval:
		statement = `SELECT document FROM registrations WHERE waiting = 1 AND id > ? ORDER BY id LIMIT ?`
	default:
		return nil, fmt.Errorf("list registrations: unknown state %d", state)
	}
	err = s.db.read(ctx, "list registrations", func(tx *sql.Tx) error {
		list, err = query(ctx, tx, scanRegistration, statement, string(after), max(limit, 0))
		return err
	})
	return list, err
}

// Sweep implements registrar.Store.
func (s *Registrations) Sweep(ctx context.Context, now time.Time) (counts registrar.Counts, err error) {
	err = s.db.write(ctx, "sweep registrations", func(tx *sql.Tx) error {
		expired, err := query(ctx, tx, scanRegistration,
			`SELECT document FROM registrations WHERE expires <> 0 AND expires <= ? ORDER BY id`, now.UnixNano())
		if err != nil {
			return err
		}
		for _, record := range expired {
			if err := sweepRegistration(ctx, tx, record, now); err != nil {
				return err
			}
		}
		counts, err = countRegistrations(ctx, tx)
		return err
	})
	return counts, err
}

// maxStripped bounds what one Displace changes.
const maxStripped = 16

// Displace implements registrar.Store.
func (s *Registrations) Displace(ctx context.Context, from string) (gone bool, err error) {
	err = s.db.write(ctx, "displace a registration", func(tx *sql.Tx) error {
		gone = false
		for range maxStripped {
			crowded, err := query(ctx, tx, text, `SELECT source FROM registrations WHERE active = 0 AND waiting = 0 GROUP BY source
				HAVING count(*) > (SELECT count(*) FROM registrations WHERE active = 0 AND waiting = 0 AND source = ?)
				ORDER BY count(*) DESC, source LIMIT 1`, from)
			if err != nil || len(crowded) == 0 {
				return err
			}
			if gone, err = stripRegistration(ctx, tx, crowded[0]); gone || err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}

// stripRegistration drops the challenges of a source from its oldest unproven record, and the record when nothing is left of it.
func stripRegistration(ctx context.Context, tx *sql.Tx, source string) (gone bool, err error) {
	oldest, err := one(ctx, tx, registrar.ErrNotFound, scanRegistration,
		`SELECT document FROM registrations WHERE active = 0 AND waiting = 0 AND source = ? ORDER BY expires LIMIT 1`, source)
	if err != nil {
		return false, err
	}
	oldest.Challenges = slices.DeleteFunc(oldest.Challenges, func(c registrar.Challenge) bool { return c.From == source })
	if len(oldest.Challenges) == 0 {
		return true, deleteRegistration(ctx, tx, oldest.ID)
	}
	return false, putRegistration(ctx, tx, oldest)
}

func getRegistration(ctx context.Context, tx *sql.Tx, id attest.AgentID) (registrar.Record, error) {
	return one(ctx, tx, registrar.ErrNotFound, scanRegistration, `SELECT document FROM registrations WHERE id = ?`, string(id))
}

func scanRegistration(rows *sql.Rows) (r registrar.Record, err error) {
	err = rows.Scan(document{&r})
	return r, err
}

func putRegistration(ctx context.Context, tx *sql.Tx, r registrar.Record) error {
	if r.EK != "" {
		taken, err := query(ctx, tx, text, `SELECT id FROM registrations WHERE ek = ? AND id <> ?`, string(r.EK), string(r.ID))
		if err != nil {
			return err
		}
		if len(taken) > 0 {
			return fmt.Errorf("%w: %q", registrar.ErrEKTaken, taken[0])
		}
	}
	body, err := encode(r)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO registrations (id, ek, active, waiting, unendorsed, expires, source, document) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET ek = excluded.ek, active = excluded.active, waiting = excluded.waiting,
			unendorsed = excluded.unendorsed, expires = excluded.expires, source = excluded.source, document = excluded.document`,
		string(r.ID), sql.NullString{String: string(r.EK), Valid: r.EK != ""}, asInt(r.Active != nil), asInt(r.Waiting != nil),
		asInt(r.Active != nil && r.Active.NotEndorsed != ""), firstExpiry(r), sourceOf(r), body)
	return err
}

func deleteRegistration(ctx context.Context, tx *sql.Tx, id attest.AgentID) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM registrations WHERE id = ?`, string(id))
	return err
}

func sweepRegistration(ctx context.Context, tx *sql.Tx, r registrar.Record, now time.Time) error {
	var left []registrar.Challenge
	for _, c := range r.Challenges {
		if c.Expires.After(now) {
			left = append(left, c)
		}
	}
	r.Challenges = left
	if r.Waiting != nil && !r.Waiting.Expires.After(now) {
		r.Waiting = nil
		if r.Active == nil {
			r.EK = "" // nothing that was proven is left, so the record claims nothing
		}
	}
	if r.Active == nil && r.Waiting == nil && len(r.Challenges) == 0 {
		return deleteRegistration(ctx, tx, r.ID)
	}
	return putRegistration(ctx, tx, r)
}

func countRegistrations(ctx context.Context, tx *sql.Tx) (c registrar.Counts, err error) {
	err = tx.QueryRowContext(ctx, `SELECT
		(SELECT count(*) FROM registrations WHERE active = 0 AND waiting = 0),
		(SELECT count(*) FROM registrations WHERE waiting = 1),
		(SELECT count(*) FROM registrations WHERE unendorsed = 1)`).Scan(&c.Unproven, &c.Waiting, &c.Unendorsed)
	return c, err
}

// firstExpiry returns when Sweep has to look at the record, 0 for never.
func firstExpiry(r registrar.Record) int64 {
	var first time.Time
	earlier := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, c := range r.Challenges {
		earlier(c.Expires)
	}
	if r.Waiting != nil {
		earlier(r.Waiting.Expires)
	}
	return instant{first}.nanos()
}

// sourceOf returns the address that an unproven record counts for.
func sourceOf(r registrar.Record) string {
	if r.Active != nil || r.Waiting != nil || len(r.Challenges) == 0 {
		return ""
	}
	return r.Challenges[0].From
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
