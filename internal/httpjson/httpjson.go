// Package httpjson reads and writes the JSON bodies of HTTP: bounded in size and time, and strict about what decides nothing.
//
// It refuses bodies over a limit, bytes after the value, text that is not UTF-8, nesting beyond MaxDepth, objects of more than MaxMembers and keys
// that occur twice in one object, also when they differ only in case, because encoding/json would take the last of them and another reader the
// first. It trusts no length. Content types, authorisation and the meaning of a body are left to the caller.
package httpjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxDepth bounds the nesting of arrays and objects.
const MaxDepth = 64

// MaxMembers bounds the members of one object: to tell keys that occur twice, all of them are kept, and they take more memory than the body.
const MaxMembers = 10_000

// Sentinel errors; StatusOf maps them.
var (
	// ErrTooLarge: the body has more bytes than the limit.
	ErrTooLarge = errors.New("body too large")
	// ErrMalformed: the body is not the JSON that was asked for.
	ErrMalformed = errors.New("malformed JSON")
)

// StatusOf returns the HTTP status of this package's errors; ok is false for others.
func StatusOf(err error) (status int, ok bool) {
	var limit *http.MaxBytesError
	switch {
	case errors.Is(err, ErrTooLarge), errors.As(err, &limit):
		return http.StatusRequestEntityTooLarge, true
	case errors.Is(err, ErrTooSlow):
		return http.StatusRequestTimeout, true
	case errors.Is(err, ErrMalformed):
		return http.StatusBadRequest, true
	}
	return 0, false
}

// Decode reads one JSON value of at most limit bytes and refuses members that into does not have.
func Decode(r io.Reader, limit int64, into any) error {
	return decode(r, limit, into, (*json.Decoder).DisallowUnknownFields)
}

// DecodeTolerant is Decode for protocols whose bodies may hold members that we do not know.
func DecodeTolerant(r io.Reader, limit int64, into any) error {
	return decode(r, limit, into, func(*json.Decoder) {})
}

func decode(r io.Reader, limit int64, into any, configure func(*json.Decoder)) error {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	if int64(len(body)) > limit {
		return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
	}
	if err := scan(body); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	configure(decoder)
	if err := decoder.Decode(into); err != nil {
		return describe(err)
	}
	return nil
}

// describe names the member that does not fit.
func describe(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) && mismatch.Field != "" {
		return fmt.Errorf("%w: %s: cannot read %s", ErrMalformed, mismatch.Field, mismatch.Value)
	}
	return fmt.Errorf("%w: %s", ErrMalformed, strings.TrimPrefix(err.Error(), "json: "))
}

// object tells the keys seen in one object; nil stands for an array.
type object map[string]bool

// scan reads the tokens of exactly one value and refuses what the package comment names.
func scan(body []byte) error {
	if !utf8.Valid(body) {
		return fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var open []object
	wantKey := false
	for values := 0; ; {
		token, err := decoder.Token()
		if err == io.EOF {
			if values != 1 || len(open) > 0 {
				return fmt.Errorf("%w: ends at offset %d inside a value", ErrMalformed, len(body))
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: offset %d: %s", ErrMalformed, decoder.InputOffset(), err)
		}
		if len(open) == 0 && values == 1 {
			return fmt.Errorf("%w: offset %d: bytes after the value", ErrMalformed, decoder.InputOffset())
		}
		switch token {
		case json.Delim('{'):
			open = append(open, object{})
		case json.Delim('['):
			open = append(open, nil)
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		default:
			if wantKey {
				if err := open[len(open)-1].add(token.(string)); err != nil {
					return fmt.Errorf("%w: offset %d: %w", ErrMalformed, decoder.InputOffset(), err)
				}
				wantKey = false
				continue
			}
		}
		if len(open) > MaxDepth {
			return fmt.Errorf("%w: offset %d: nested deeper than %d", ErrMalformed, decoder.InputOffset(), MaxDepth)
		}
		if len(open) == 0 {
			values++
		}
		wantKey = len(open) > 0 && open[len(open)-1] != nil
	}
}

// add notes a key. Keys that differ only in case count as one: encoding/json matches members so.
func (o object) add(key string) error {
	folded := strings.Map(fold, key)
	if o[folded] {
		return fmt.Errorf("duplicate key %.80q", key)
	}
	if len(o) >= MaxMembers {
		return fmt.Errorf("an object of more than %d members", MaxMembers)
	}
	o[folded] = true
	return nil
}

// fold returns the lowest of the characters that count as one where case does not: what encoding/json compares.
func fold(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}

// IsJSON reports whether a request's Content-Type is application/json or application/<x>+json.
func IsJSON(r *http.Request) bool {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasPrefix(media, "application/") && strings.HasSuffix(media, "+json"))
}

// Write sends a value as JSON. A value that cannot be encoded is the caller's bug and answered with 500 and an empty body.
func Write(w http.ResponseWriter, status int, value any) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(body.Bytes()) // the peer may be gone: nobody to tell
}
