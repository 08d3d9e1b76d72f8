package commands

import (
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// What an assignment makes of a node, and what its TPM is, stands in the description; of a node without any of it nothing does.
func TestDescriptionOfAnAssignedNode(t *testing.T) {
	n := api.Node{ID: "node-1", Verdict: attest.Failed, TpmPresent: true, EndorsedBy: "CN=lab"}
	plain := described(t, n)
	root := attest.SHA256.Sum([]byte("root"))
	n.Muted = &api.Mute{Until: time.Unix(0, 0), Stale: true}
	n.Emulated, n.Coverage = true, []string{api.CoverageContainerFilesIgnored}
	n.Readmission = &api.Readmission{Boot: "b007", At: time.Unix(0, 0)}
	n.Assignment = api.Assignment{
		Owner: "NodePolicy/workers\x1b[2J", Mode: api.Enforce, Reactions: []api.ReactionKind{api.ReactTaint, api.ReactNotify}, Budget: 2, DryRun: true,
		Readmit: api.ReadmitApproval, EndorsedBy: []attest.Digest{root},
	}
	full := described(t, n)
	for _, want := range []string{
		"Failed (emulated) since", "EMULATED: this TPM is no hardware", "Enforce: Taint,Notify, 2 nodes at once (dry run)", "a reboot needs a person's approval",
		"is missing shows from 1970-01-01", "; it is missing now", "only " + root.String(), "reduced: ContainerFilesIgnored", "boot b007 passes since", "`assay node approve node-1`",
	} {
		if !strings.Contains(full, want) {
			t.Errorf("%q is not in\n%s", want, full)
		}
		if strings.Contains(plain, want) {
			t.Errorf("%q is in the description of a plain node\n%s", want, plain)
		}
	}
	if strings.Contains(full, "\x1b") {
		t.Errorf("a control character came through: %q", full)
	}
	n.Assignment.Mode, n.Assignment.Reactions = "", nil
	if text := described(t, n); !strings.Contains(text, ", Observe\n") {
		t.Errorf("no mode is not Observe in\n%s", text)
	}
}

func described(t *testing.T, n api.Node) string {
	t.Helper()
	var out strings.Builder
	if err := describe(&out, n); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestStatesOfReactions(t *testing.T) {
	for want, r := range map[string]api.Reaction{
		"Applied":                   {State: api.ReactionApplied},
		"Claimed to lift":           {State: api.ReactionClaimed, Lifting: true},
		"Claimed (dry run)":         {State: api.ReactionClaimed, DryRun: true},
		"Claimed to lift (dry run)": {State: api.ReactionClaimed, Lifting: true, DryRun: true},
	} {
		if got := reactionState(r); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
