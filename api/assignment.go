package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/assay-project/assay/attest"
)

// Assignment is what the owner of a node's policies decided for it beside the documents: in a cluster a NodePolicy by way of the
// operator. The zero value observes.
type Assignment struct {
	// Owner names the object that assigns, such as "NodePolicy/workers". While it is set, nobody but the operator changes what applies
	// to the node. Nodes of one owner share its budget.
	Owner string `json:"owner,omitempty"`
	// Mode is Observe (the default: report, never react) or Enforce.
	Mode Mode `json:"mode,omitempty"`
	// Reactions are taken together on a Failed that a quote proves.
	Reactions []ReactionKind `json:"reactions,omitempty"`
	// Budget is how many nodes of the owner may be under reaction at once; 0 none.
	Budget int `json:"budget,omitempty"`
	// DryRun lets reactions run through without touching anything.
	DryRun bool `json:"dryRun,omitempty"`
	// Readmit says who lets a failed machine back in after a new boot that passes: Automatic (the default) or Approval.
	Readmit Readmit `json:"readmit,omitempty"`
	// Reimage says what becomes of a new AK of the same TPM: Approval (the default) or Allow.
	Reimage Reimage `json:"reimage,omitempty"`
	// ContainerFiles says what a Runtime document makes of programs that ran in containers: Fail (the default) or Ignore.
	ContainerFiles ContainerFiles `json:"containerFiles,omitempty"`
	// WhenSilent are the milder reactions to a machine that does not answer; nil for none.
	WhenSilent *WhenSilent `json:"whenSilent,omitempty"`
	// EndorsedBy are the fingerprints of the roots that may vouch for the TPM; empty accepts every root that is not an emulator's.
	EndorsedBy []attest.Digest `json:"endorsedBy,omitempty"`
}

// Mode says whether a failed verdict has consequences.
type Mode string

// The modes.
const (
	Observe Mode = "Observe"
	Enforce Mode = "Enforce"
)

// Readmit says how a failed machine comes back after a reboot.
type Readmit string

// The ways back.
const (
	ReadmitAutomatic Readmit = "Automatic"
	ReadmitApproval  Readmit = "Approval"
)

// Reimage says what becomes of a new AK of a known TPM.
type Reimage string

// The answers to a new AK.
const (
	ReimageApproval Reimage = "Approval"
	ReimageAllow    Reimage = "Allow"
)

// ContainerFiles says what a host's Runtime document makes of programs that ran in containers.
type ContainerFiles string

// The answers to programs in containers. Ignore needs the kernel to run the IMA policy for hosts with containers.
const (
	ContainerFilesFail   ContainerFiles = "Fail"
	ContainerFilesIgnore ContainerFiles = "Ignore"
)

// WhenSilent reacts to a machine without accepted evidence. Only Label, Taint and Notify are possible.
type WhenSilent struct {
	Reactions []ReactionKind `json:"reactions"`
	// After is how long the machine has been silent before, in seconds.
	After float64 `json:"after"`
}

// CoverageContainerFilesIgnored is the entry of Node.Coverage for a node whose containers are not measured by the host's policy.
const CoverageContainerFilesIgnored = "ContainerFilesIgnored"

// Readmission waits for a person: the machine failed in an earlier boot, and everything of this one passes.
type Readmission struct {
	Boot string    `json:"boot"`
	At   time.Time `json:"at"`
}

// Bounds of an assignment.
const (
	MaxOwnerBytes   = 300
	MaxBudget       = 100_000
	MaxEndorsers    = 64
	MaxSilenceAfter = 30 * 24 * 3600 // seconds
)

// Validate reports every mistake of an assignment at once.
func (a Assignment) Validate() error {
	var mistakes []error
	mistake := func(format string, values ...any) {
		mistakes = append(mistakes, fmt.Errorf("assignment."+format, values...))
	}
	oneOf := func(field, value string, allowed ...string) {
		if value != "" && !slices.Contains(allowed, value) {
			mistake("%s: %.40q is none of %s", field, value, strings.Join(allowed, ", "))
		}
	}
	if len(a.Owner) > MaxOwnerBytes || strings.ContainsFunc(a.Owner, func(c rune) bool { return c == ' ' || c > unicode.MaxASCII || !unicode.IsPrint(c) }) {
		mistake("owner: want at most %d printable ASCII characters without spaces, such as NodePolicy/workers", MaxOwnerBytes)
	}
	oneOf("mode", string(a.Mode), string(Observe), string(Enforce))
	oneOf("readmit", string(a.Readmit), string(ReadmitAutomatic), string(ReadmitApproval))
	oneOf("reimage", string(a.Reimage), string(ReimageApproval), string(ReimageAllow))
	oneOf("containerFiles", string(a.ContainerFiles), string(ContainerFilesFail), string(ContainerFilesIgnore))
	kinds("reactions", a.Reactions, mistake, ReactLabel, ReactTaint, ReactNotify, ReactCordon)
	if a.Budget < 0 || a.Budget > MaxBudget {
		mistake("budget: %d is not 0 to %d", a.Budget, MaxBudget)
	}
	if a.Owner == "" && (len(a.Reactions) > 0 || a.WhenSilent != nil) {
		mistake("owner: is empty; reactions take the budget of an owner")
	}
	if s := a.WhenSilent; s != nil {
		if len(s.Reactions) == 0 {
			mistake("whenSilent.reactions: is empty")
		}
		kinds("whenSilent.reactions", s.Reactions, mistake, ReactLabel, ReactTaint, ReactNotify)
		if !(s.After >= 1 && s.After <= MaxSilenceAfter) {
			mistake("whenSilent.after: %v is not 1 to %d seconds", s.After, MaxSilenceAfter)
		}
	}
	if len(a.EndorsedBy) > MaxEndorsers {
		mistake("endorsedBy: has %d fingerprints, more than %d", len(a.EndorsedBy), MaxEndorsers)
	}
	for i, d := range a.EndorsedBy {
		if d.Hash() != attest.SHA256 {
			mistake("endorsedBy[%d]: want the fingerprint of a root, sha256:HEX", i)
		}
	}
	return errors.Join(mistakes...)
}

// kinds checks a list of reactions: known to the field, and none twice.
func kinds(field string, list []ReactionKind, mistake func(format string, values ...any), allowed ...ReactionKind) {
	for i, kind := range list {
		switch {
		case !slices.Contains(allowed, kind):
			mistake("%s[%d]: %.40q is none of %v", field, i, kind, allowed)
		case slices.Contains(list[:i], kind):
			mistake("%s[%d]: %s stands there twice", field, i, kind)
		}
	}
}
