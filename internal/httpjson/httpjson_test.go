package httpjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

type body struct {
	Name  string         `json:"name"`
	Port  int            `json:"port"`
	Inner *body          `json:"inner"`
	More  map[string]any `json:"more"`
}

func TestDecode(t *testing.T) {
	want := body{Name: "a", Port: 7, Inner: &body{Name: "b"}}
	var got body
	if err := Decode(strings.NewReader(` {"name":"a","port":7,"inner":{"name":"b"}} `), 100, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		sentinel   error
		detail     string
	}{
		{"empty", ``, ErrMalformed, "offset 0"},
		{"spaces", `  `, ErrMalformed, "ends at offset 2"},
		{"cut", `{"name":`, ErrMalformed, "offset 8"},
		{"cut array", `{"more":{"x":[1`, ErrMalformed, "offset 15"},
		{"no JSON", `name=a`, ErrMalformed, "invalid character"},
		{"second value", `{} {}`, ErrMalformed, "bytes after the value"},
		{"trailing bytes", `{}x`, ErrMalformed, "offset 2"},
		{"trailing bracket", `{}]`, ErrMalformed, "offset 2"},
		{"duplicate", `{"name":"a","name":"b"}`, ErrMalformed, `duplicate key "name"`},
		{"duplicate by escape", `{"name":"a","n\u0061me":"b"}`, ErrMalformed, `duplicate key "name"`},
		{"duplicate by case", `{"name":"a","NAME":"b"}`, ErrMalformed, `duplicate key "NAME"`},
		{"duplicate by fold", `{"inner":{"more":{"s":1,"ſ":2}}}`, ErrMalformed, `duplicate key "ſ"`},
		{"duplicate by fold of K", "{\"more\":{\"k\":1,\"\u212a\":2}}", ErrMalformed, "duplicate key"},
		{"inner duplicate", `{"more":{"x":[{"y":1,"z":[],"y":2}]}}`, ErrMalformed, `duplicate key "y"`},
		{"duplicate in an unknown member", `{"more":{"x":1,"x":1}}`, ErrMalformed, `duplicate key "x"`},
		{"unknown", `{"nmae":"a"}`, ErrMalformed, `unknown field "nmae"`},
		{"type", `{"inner":{"port":"7"}}`, ErrMalformed, "inner.port: cannot read string"},
		{"overflow", `{"port":99999999999999999999}`, ErrMalformed, "port: cannot read number 99999999999999999999"},
		{"not UTF-8", "{\"name\":\"\xff\"}", ErrMalformed, "not UTF-8"},
		{"deep", strings.Repeat(`[`, MaxDepth+1) + strings.Repeat(`]`, MaxDepth+1), ErrMalformed, "nested deeper than 64"},
		{"large", `{"name":"` + strings.Repeat("a", 200) + `"}`, ErrTooLarge, "more than 200 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got body
			err := Decode(strings.NewReader(tt.text), 200, &got)
			if !errors.Is(err, tt.sentinel) || !strings.Contains(err.Error(), tt.detail) {
				t.Errorf("got %v, want %v with %q", err, tt.sentinel, tt.detail)
			}
		})
	}
}

// An object of many members is refused while it is read: the set of its keys takes ten times the memory of the body.
func TestMembersAreBounded(t *testing.T) {
	object := func(members int) string {
		var text strings.Builder
		for i := range members {
			fmt.Fprintf(&text, `,"%x":0`, i)
		}
		return `{"more":{` + text.String()[1:] + `}}`
	}
	for members, wanted := range map[int]error{MaxMembers: nil, MaxMembers + 1: ErrMalformed} {
		var got body
		if err := Decode(strings.NewReader(object(members)), 1<<20, &got); !errors.Is(err, wanted) {
			t.Errorf("%d members: %v, want %v", members, err, wanted)
		}
	}
}

// encoding/json matches a member by folding, so that two keys which it takes for one count as one.
func TestFoldedKeysAreOne(t *testing.T) {
	var got struct {
		S int `json:"s"`
	}
	if err := Decode(strings.NewReader(`{"ſ":7}`), 100, &got); err != nil || got.S != 7 {
		t.Fatalf("encoding/json no longer folds: %v, %+v", err, got)
	}
	if err := Decode(strings.NewReader(`{"s":1,"ſ":2}`), 100, &got); !errors.Is(err, ErrMalformed) {
		t.Errorf("both: %v, %+v", err, got)
	}
}

func TestSameKeyInDifferentObjects(t *testing.T) {
	var got any
	text := `{"a":[{"x":1},{"x":2}],"b":{"x":{"x":3}},"x":"a"}`
	if err := Decode(strings.NewReader(text), 200, &got); err != nil {
		t.Error(err)
	}
}

func TestTolerantTakesUnknownMembersOnly(t *testing.T) {
	var got body
	if err := DecodeTolerant(strings.NewReader(`{"name":"a","nmae":null}`), 100, &got); err != nil {
		t.Error(err)
	}
	if err := DecodeTolerant(strings.NewReader(`{"nmae":1,"nmae":2}`), 100, &got); !errors.Is(err, ErrMalformed) {
		t.Errorf("duplicate: got %v", err)
	}
}

func TestReadErrorIsNotTheBodysFault(t *testing.T) {
	broken := errors.New("broken pipe")
	err := Decode(iotest.ErrReader(broken), 100, &body{})
	if _, ok := StatusOf(err); ok || !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestStatusOf(t *testing.T) {
	for err, want := range map[error]int{
		fmt.Errorf("x: %w", ErrTooLarge):  http.StatusRequestEntityTooLarge,
		fmt.Errorf("x: %w", ErrMalformed): http.StatusBadRequest,
		&http.MaxBytesError{Limit: 3}:     http.StatusRequestEntityTooLarge,
		errors.New("disk"):                0,
	} {
		if got, ok := StatusOf(err); got != want || ok != (want != 0) {
			t.Errorf("%v: got %d, %v", err, got, ok)
		}
	}
}

func TestIsJSON(t *testing.T) {
	for media, want := range map[string]bool{
		"application/json":                true,
		"Application/JSON; charset=utf-8": true,
		"application/vnd.api+json":        true,
		"application/vnd.api":             false,
		"text/json":                       false,
		"":                                false,
		"application/json; charset=\"":    false,
	} {
		r := httptest.NewRequest("POST", "/", nil)
		r.Header.Set("Content-Type", media)
		if got := IsJSON(r); got != want {
			t.Errorf("%q: got %v", media, got)
		}
	}
}

func TestWrite(t *testing.T) {
	w := httptest.NewRecorder()
	Write(w, http.StatusCreated, map[string]string{"a": "<b>"})
	if w.Code != http.StatusCreated || w.Header().Get("Content-Type") != "application/json" || w.Body.String() != `{"a":"<b>"}`+"\n" {
		t.Errorf("got %d %v %q", w.Code, w.Header(), w.Body)
	}
	w = httptest.NewRecorder()
	Write(w, http.StatusOK, func() {})
	if w.Code != http.StatusInternalServerError || w.Body.Len() != 0 {
		t.Errorf("a value without JSON form: got %d %q", w.Code, w.Body)
	}
}

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{"name":"a","port":7,"inner":{"more":{"x":[1,{}]}}}`, `[`, `{"a":1,"A":2}`, `"\ud800"`, `1e400`, `{}{}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got any
		if err := Decode(bytes.NewReader(text), 1<<16, &got); err != nil {
			return
		}
		if !json.Valid(text) {
			t.Errorf("took %q, which is not one JSON value", text)
		}
	})
}
