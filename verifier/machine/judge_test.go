package machine

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/assay-project/assay/appraisal"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/policy"
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

// Many failures of one kind hide no other one: neither one of a later round, nor one of appraisal behind those of a list.
func TestManyFailuresHideNoOther(t *testing.T) {
	w := newWorld(t, boxtest.Document(t, "base"))
	for i := range attest.MaxFailures + 20 {
		w.box.Run(fmt.Sprintf("/opt/evil%d", i), "")
	}
	w.round(nil)
	if got := ids(w.state.Failures); len(w.state.Failures) != attest.MaxFailures || !slices.Equal(got, []attest.FailureID{attest.FileNotInPolicy}) {
		t.Fatalf("%d failures: %v", len(w.state.Failures), got)
	}
	w.round(boxtest.Faults{"no-list": ""})
	if got := ids(w.state.Failures); len(w.state.Failures) != attest.MaxFailures || !slices.Contains(got, attest.EvidenceMissing) || !slices.Contains(got, attest.FileNotInPolicy) {
		t.Errorf("without a list after them: %d failures: %v", len(w.state.Failures), got)
	}

	j := judgement{failures: slices.Repeat([]attest.Failure{attest.Fail(attest.TemplateHashMismatch, "an entry")}, attest.MaxFailures)}
	j = j.apply(appraisal.Input{Policies: []*policy.Document{boxtest.Document(t, "base")}})
	if got := ids(j.failures); len(j.failures) != attest.MaxFailures || !slices.Contains(got, attest.EvidenceUnverified) {
		t.Errorf("behind those of a list: %d failures: %v", len(j.failures), got)
	}
}
