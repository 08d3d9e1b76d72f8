package machine

import (
	"encoding/json"
	"testing"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/boxtest"
)

// A name that cannot be stored as it is would be another reason each time that it is read.
func TestFailuresCanBeStored(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	w.box.Run("/opt/a\xffb\xc3\xa9\ufffd", "")
	w.round(nil)
	if w.verdict() != attest.Failed || w.state.Failures[0].Path != "/opt/a\\xffb\u00e9\ufffd" {
		t.Fatalf("%s, %+v", w.verdict(), w.state.Failures)
	}
	stored, err := json.Marshal(w.state)
	if err != nil {
		t.Fatal(err)
	}
	var read State
	if err := json.Unmarshal(stored, &read); err != nil || !sameReason(read.Failures[0], w.state.Failures[0]) {
		t.Errorf("read again: %+v, %v", read.Failures, err)
	}
}
