package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-project/assay/attest"
)

// query collects the rows of a statement.
func query[T any](ctx context.Context, tx *sql.Tx, scan func(*sql.Rows) (T, error), statement string, args ...any) (result []T, err error) {
	rows, err := tx.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		row, err := scan(rows)
		if err != nil {
			return nil, err
		}
		result = append(result, row)
	}
	return result, rows.Err()
}

// one returns the first row of a statement, or missing if there is none.
func one[T any](ctx context.Context, tx *sql.Tx, missing error, scan func(*sql.Rows) (T, error), statement string, args ...any) (T, error) {
	rows, err := query(ctx, tx, scan, statement, args...)
	if err == nil && len(rows) == 0 {
		err = missing
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return rows[0], nil
}

// affected runs a statement and returns the number of rows that it changed.
func affected(ctx context.Context, tx *sql.Tx, statement string, args ...any) (int64, error) {
	result, err := tx.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// text is a scanner of one text column.
func text(rows *sql.Rows) (s string, err error) {
	err = rows.Scan(&s)
	return s, err
}

// instant keeps a time in a column: nanoseconds since 1970, 0 for the zero time.
type instant struct{ time.Time }

func (t instant) nanos() int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

// Scan reads the column.
func (t *instant) Scan(column any) error {
	nanos, ok := column.(int64)
	if !ok {
		return fmt.Errorf("time column holds a %T", column)
	}
	t.Time = time.Time{}
	if nanos != 0 {
		t.Time = time.Unix(0, nanos).UTC()
	}
	return nil
}

// digest keeps an attest.Digest in a text column.
type digest struct{ attest.Digest }

// Scan reads the column.
func (d *digest) Scan(column any) error {
	s, ok := column.(string)
	if !ok {
		return fmt.Errorf("digest column holds a %T", column)
	}
	return d.UnmarshalText([]byte(s))
}

// document keeps a value as JSON in a text column.
type document struct{ value any }

// Scan reads the column.
func (d document) Scan(column any) error {
	s, ok := column.(string)
	if !ok {
		return fmt.Errorf("document column holds a %T", column)
	}
	if err := json.Unmarshal([]byte(s), d.value); err != nil {
		return fmt.Errorf("document column: %w", err)
	}
	return nil
}

func encode(value any) (string, error) {
	s, err := json.Marshal(value)
	if err != nil {
		return "", fmt.Errorf("encode %T: %w", value, err)
	}
	return string(s), nil
}

// toInt checks that a count fits a BIGINT.
func toInt(n uint64) (int64, error) {
	if n > 1<<63-1 {
		return 0, fmt.Errorf("%d does not fit the database", n)
	}
	return int64(n), nil
}
