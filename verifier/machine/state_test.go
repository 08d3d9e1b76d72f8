package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// A state that was stored is read as it was written: what is lost there would be a false alarm after a restart.
func TestStateAsJSON(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.round(boxtest.Faults{"ghost": "/usr/bin/a"})
	w.round(boxtest.Faults{"no-list": ""})
	text, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	var read State
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	if again, err := json.Marshal(read); err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
	if diff := cmp.Diff(fmt.Sprintf("%+v", w.state.IMA), fmt.Sprintf("%+v", read.IMA)); read.IMA.Held == nil || w.state.IMA.Held == nil {
		t.Error(diff)
	}
}

// A file's name may hold a newline, and then agents count differently: Keylime's count lines, ours entries. No position means the same
// to all of them but the start.
func TestNameWithANewline(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.box.Run("/usr/bin/two\nlines", "")
	w.round(nil)
	for range 2 {
		w.box.Run("/usr/bin/true", "")
		w.round(nil)
	}
	if got := ids(w.state.Failures); !slices.Equal(got, []attest.FailureID{attest.FileNotInPolicy}) || w.state.IMA.Position != 6 {
		t.Errorf("at entry %d: %v", w.state.IMA.Position, w.state.Failures)
	}
	if r, _ := w.ask(); r.Offset != 0 {
		t.Errorf("asked from %d", r.Offset)
	}
}
