package wire

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// exchange is one captured request with its answer; the bodies are exact.
type exchange struct {
	Name, Origin, Method, Path string
	Request                    string
	Status                     int
	Response                   string
}

func readJSON(t testing.TB, file string, into any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, file), into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

func readFile(t testing.TB, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// captured returns one exchange of a file by its name.
func captured(t testing.TB, file, name string) exchange {
	t.Helper()
	var all []exchange
	readJSON(t, file, &all)
	for _, e := range all {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("%s has no exchange %q", file, name)
	return exchange{}
}

// sameJSON compares two texts as JSON values.
func sameJSON(t *testing.T, want, got string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(want), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(got), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Error(diff)
	}
}

// roundTrip reads a captured body as a T and expects to write the same.
func roundTrip[T any](t *testing.T, body string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(body), &value); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	sameJSON(t, body, string(again))
	return value
}

// readResponse reads the answer of an exchange.
func readResponse(t testing.TB, e exchange, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(e.Response), into); err != nil {
		t.Fatalf("%s: %v", e.Origin, err)
	}
}
