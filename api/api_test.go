package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
)

var update = flag.Bool("update", false, "write the published document anew")

// TestOpenAPIIsPublished keeps openapi.json, which people read, equal to what the server serves.
func TestOpenAPIIsPublished(t *testing.T) {
	const path = "openapi.json"
	if *update {
		if err := os.WriteFile(path, OpenAPI(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(OpenAPI())); diff != "" {
		t.Errorf("openapi.json is not current (go test ./api -update): %s", diff)
	}
}

func TestOpenAPIIsWhole(t *testing.T) {
	var document struct {
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(OpenAPI(), &document); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, op := range Operations() {
		got, ok := document.Paths[op.Path][strings.ToLower(op.Method)]
		if !ok || got.OperationID == "" || ids[got.OperationID] {
			t.Errorf("%s %s: operationId %q is missing or not unique", op.Method, op.Path, got.OperationID)
		}
		ids[got.OperationID] = true
	}
	for _, reference := range bytes.Split(OpenAPI(), []byte(`"#/components/schemas/`))[1:] {
		name, _, _ := bytes.Cut(reference, []byte(`"`))
		if document.Components.Schemas[string(name)] == nil {
			t.Errorf("the document refers to %s, which it does not hold", name)
		}
	}
}

func TestJoinTokenRoundTrip(t *testing.T) {
	want := JoinToken{Pin: attest.SHA256.Sum([]byte("a CA")), ID: "0a1b2c", Secret: bytes.Repeat([]byte{7}, 24)}
	got, err := ParseJoinToken(want.String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(attest.Digest{})); diff != "" {
		t.Error(diff)
	}
}

func TestJoinTokenRefused(t *testing.T) {
	good := JoinToken{Pin: attest.SHA256.Sum([]byte("a CA")), ID: "0a1b2c", Secret: bytes.Repeat([]byte{7}, 24)}.String()
	parts := strings.Split(good, ".")
	join := func(parts ...string) string { return strings.Join(parts, ".") }
	for name, text := range map[string]string{
		"empty":          "",
		"other prefix":   join("assay2", parts[1], parts[2], parts[3]),
		"too few parts":  join(parts[0], parts[1], parts[2]),
		"too many parts": good + ".x",
		"bad pin":        join(parts[0], "!", parts[2], parts[3]),
		"short pin":      join(parts[0], parts[1][:8], parts[2], parts[3]),
		"no id":          join(parts[0], parts[1], "", parts[3]),
		"long id":        join(parts[0], parts[1], strings.Repeat("a", 33), parts[3]),
		"short secret":   join(parts[0], parts[1], parts[2], "AAAA"),
		"bad secret":     join(parts[0], parts[1], parts[2], "???"),
	} {
		_, err := ParseJoinToken(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if strings.Contains(err.Error(), parts[3]) {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
	}
}
