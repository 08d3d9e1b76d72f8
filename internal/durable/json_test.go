package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJSON(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.json")
	var got map[string][]int
	if err := ReadJSON(path, &got); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	want := map[string][]int{"a": {1, 2}}
	if err := WriteJSON(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := WriteJSON(path, func() {}, 0o600); err == nil || !strings.Contains(err.Error(), "encode "+path) {
		t.Errorf("what is no JSON: %v", err)
	}
	if err := ReadJSON(path, &got); err != nil {
		t.Errorf("the failed write lost the file: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"a": [1,`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReadJSON(path, &got); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a file: %v", err)
	}
}
