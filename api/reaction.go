package api

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/assay-project/assay/attest"
)

// Paths of reactions. The operator claims with POST PathReactions/{id}/claim and reports with POST PathReactions/{id}/report.
const (
	PathReactions  = "/api/v1/reactions"
	PathSuspension = "/api/v1/suspension"
)

// ReactionKind is one thing that is done to a node of a cluster.
type ReactionKind string

// The kinds. Cordon is a convenience: a node can undo it by itself.
const (
	ReactLabel  ReactionKind = "Label"
	ReactTaint  ReactionKind = "Taint"
	ReactNotify ReactionKind = "Notify"
	ReactCordon ReactionKind = "Cordon"
)

// ReactionCause says what a reaction rests on.
type ReactionCause string

// The causes: a failure that a quote proves, or no accepted evidence for too long.
const (
	CauseFailure ReactionCause = "Failure"
	CauseSilence ReactionCause = "Silence"
)

// ReactionState is where a reaction stands.
type ReactionState string

// The states. Waiting (for budget, or while suspended), Due, Claimed, Applied, Lifting (trust returned: to be undone) are open;
// Lifted and Dropped (trust returned before anything was done) are ends.
const (
	ReactionWaiting ReactionState = "Waiting"
	ReactionDue     ReactionState = "Due"
	ReactionClaimed ReactionState = "Claimed"
	ReactionApplied ReactionState = "Applied"
	ReactionLifting ReactionState = "Lifting"
	ReactionLifted  ReactionState = "Lifted"
	ReactionDropped ReactionState = "Dropped"
)

// Reaction is a server's decision to react to one node, and what became of it: an item of PathReactions.
type Reaction struct {
	// ID is unique and never used again; later decisions have higher ones.
	ID   uint64         `json:"id"`
	Node attest.AgentID `json:"node"`
	// Identity is the Kubernetes Node, as bound when the decision was made.
	Identity *KubernetesNode `json:"identity,omitempty"`
	Kinds    []ReactionKind  `json:"kinds"`
	Cause    ReactionCause   `json:"cause"`
	// Seq is the transition that the decision rests on, Owner whose budget it takes.
	Seq    uint64        `json:"seq"`
	Owner  string        `json:"owner"`
	DryRun bool          `json:"dryRun,omitempty"`
	State  ReactionState `json:"state"`
	// Lifting says of a claimed reaction that it is claimed to be undone.
	Lifting bool      `json:"lifting,omitempty"`
	Opened  time.Time `json:"opened"`
	Changed time.Time `json:"changed"`
	// ClaimedBy is the operator that works on it, until the lease ends.
	ClaimedBy string    `json:"claimedBy,omitempty"`
	Lease     time.Time `json:"lease,omitzero"`
	// Claim counts the claims; a report says to which it belongs.
	Claim uint64 `json:"claim,omitempty"`
	// Detail is why it waits, or what the operator reported.
	Detail string `json:"detail,omitempty"`
}

// States that GET PathReactions selects by its query "state", beside the single ones.
const ReactionStateOpen = "open"

// ReactionStates returns all states in the order of a reaction's life; the last two are ends.
func ReactionStates() []ReactionState {
	return []ReactionState{ReactionWaiting, ReactionDue, ReactionClaimed, ReactionApplied, ReactionLifting, ReactionLifted, ReactionDropped}
}

// MaxDetailBytes bounds what an operator or a person says of reactions.
const MaxDetailBytes = 1 << 10

// ReactionReport is what the operator says of a reaction that it claimed.
type ReactionReport struct {
	// Claim is that of the claimed reaction as the server answered it: of two programs with one certificate, the one whose lease ran out is not heard.
	Claim uint64 `json:"claim"`
	// Done: applied, or undone where it was claimed for lifting. Otherwise it is tried again later.
	Done   bool   `json:"done"`
	Detail string `json:"detail,omitempty"`
}

// Validate reports a detail that is too long or not for terminals.
func (r ReactionReport) Validate() error { return plain("detail", r.Detail) }

// Suspension stops all reactions: GET and PUT PathSuspension. What was applied is still undone when trust returns.
type Suspension struct {
	Suspended bool      `json:"suspended"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	At        time.Time `json:"at,omitzero"`
}

// Validate reports a suspension that does not say why.
func (s Suspension) Validate() error {
	if s.Suspended && strings.TrimSpace(s.Reason) == "" {
		return errors.New("reason: is empty; whoever finds reactions suspended needs to know why")
	}
	if s.By != "" || !s.At.IsZero() {
		return errors.New("by, at: the server sets them")
	}
	return plain("reason", s.Reason)
}

func plain(field, text string) error {
	if len(text) > MaxDetailBytes || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return fmt.Errorf("%s: want at most %d bytes of printable text", field, MaxDetailBytes)
	}
	return nil
}
