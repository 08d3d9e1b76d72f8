package api

import (
	"math"
	"strings"
	"testing"

	"github.com/assay-project/assay/attest"
)

// enforcing is an assignment with something in every field.
func enforcing() Assignment {
	return Assignment{
		Owner: "NodePolicy/workers", Mode: Enforce, Reactions: []ReactionKind{ReactLabel, ReactTaint, ReactNotify, ReactCordon}, Budget: 2, DryRun: true,
		Readmit: ReadmitApproval, Reimage: ReimageAllow, ContainerFiles: ContainerFilesIgnore,
		WhenSilent: &WhenSilent{Reactions: []ReactionKind{ReactTaint}, After: 600}, EndorsedBy: []attest.Digest{attest.SHA256.Sum([]byte("root"))},
	}
}

func TestAssignmentValidates(t *testing.T) {
	for name, good := range map[string]Assignment{"empty": {}, "full": enforcing(), "no budget": {Owner: "x", Mode: Enforce, Reactions: []ReactionKind{ReactTaint}}} {
		if err := good.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAssignmentNamesEveryMistake(t *testing.T) {
	for want, spoil := range map[string]func(*Assignment){
		`assignment.owner: want at most 300 printable`:                 func(a *Assignment) { a.Owner = "a\x1b[31m" },
		`assignment.owner: is empty; reactions take the budget`:        func(a *Assignment) { a.Owner = "" },
		`assignment.mode: "enforce" is none of Observe, Enforce`:       func(a *Assignment) { a.Mode = "enforce" },
		`assignment.readmit: "Never" is none of Automatic, Approval`:   func(a *Assignment) { a.Readmit = "Never" },
		`assignment.reimage: "Deny" is none of Approval, Allow`:        func(a *Assignment) { a.Reimage = "Deny" },
		`assignment.containerFiles: "Skip" is none of Fail, Ignore`:    func(a *Assignment) { a.ContainerFiles = "Skip" },
		`assignment.reactions[1]: "Reboot" is none of`:                 func(a *Assignment) { a.Reactions = []ReactionKind{ReactTaint, "Reboot"} },
		`assignment.reactions[1]: Taint stands there twice`:            func(a *Assignment) { a.Reactions = []ReactionKind{ReactTaint, ReactTaint} },
		`assignment.budget: -1 is not 0 to 100000`:                     func(a *Assignment) { a.Budget = -1 },
		`assignment.whenSilent.reactions: is empty`:                    func(a *Assignment) { a.WhenSilent.Reactions = nil },
		`assignment.whenSilent.reactions[0]: "Cordon" is none of`:      func(a *Assignment) { a.WhenSilent.Reactions = []ReactionKind{ReactCordon} },
		`assignment.whenSilent.after: 0 is not 1 to 2592000 seconds`:   func(a *Assignment) { a.WhenSilent.After = 0 },
		`assignment.whenSilent.after: NaN is not 1 to 2592000 seconds`: func(a *Assignment) { a.WhenSilent.After = math.NaN() },
		`assignment.endorsedBy[0]: want the fingerprint of a root`:     func(a *Assignment) { a.EndorsedBy[0] = attest.SHA1.Sum([]byte("root")) },
		`assignment.endorsedBy: has 65 fingerprints, more than 64`:     func(a *Assignment) { a.EndorsedBy = make([]attest.Digest, 65) },
	} {
		a := enforcing()
		spoil(&a)
		if err := a.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	bad := enforcing()
	bad.Mode, bad.Budget = "on", -1
	if err := bad.Validate(); err == nil || strings.Count(err.Error(), "assignment.") != 2 {
		t.Errorf("got %v, want both mistakes", err)
	}
}

func TestWordsOnReactionsAreBounded(t *testing.T) {
	if err := (Suspension{Suspended: true, Reason: "maintenance"}).Validate(); err != nil {
		t.Error(err)
	}
	if err := (ReactionReport{Detail: "tainted"}).Validate(); err != nil {
		t.Error(err)
	}
	for want, err := range map[string]error{
		"reason: is empty":         Suspension{Suspended: true, Reason: "  "}.Validate(),
		"reason: want at most":     Suspension{Reason: "\x1b[2J"}.Validate(),
		"by, at: the server":       Suspension{By: "someone"}.Validate(),
		"detail: want at most 102": ReactionReport{Detail: strings.Repeat("x", MaxDetailBytes+1)}.Validate(),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
