package reaction

import (
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// Lease is how long a claim holds without a report.
const Lease = 60 * time.Second

// Bounds of the pause after a failed attempt, which doubles each time.
const (
	firstPause = 5 * time.Second
	maxPause   = 5 * time.Minute
)

// Current tells what the verdict of a node asks for, read in the same transaction; nil is nothing.
type Current func(node attest.AgentID) (*Want, error)

// By says which row an operator works on, as whom and when.
type By struct {
	ID   uint64
	Name string
	Now  time.Time
}

// Claim gives a row to one operator: one that is due, one that is to be lifted, or one whose claim has run out. A decision that the present
// verdict does not bear is refused, whatever the row says.
func Claim(b Book, by By, current Current) (Row, error) {
	r, err := find(b, by.ID)
	if err != nil {
		return Row{}, err
	}
	if err := r.claimable(by); err != nil {
		return Row{}, err
	}
	if r.lifting() {
		r.Lifting = true
	} else {
		if err := bears(b, r, current); err != nil {
			return Row{}, err
		}
		r.Attempts++
	}
	r.State, r.ClaimedBy, r.Lease = api.ReactionClaimed, by.Name, by.Now.Add(Lease)
	r.Claim++
	return put(b, r, by.Now)
}

func find(b Book, id uint64) (Row, error) {
	if id == 0 {
		return Row{}, fmt.Errorf("reaction %d: %w", id, ErrNotFound)
	}
	rows, err := b.Rows(Query{ID: id, Limit: 1})
	if err != nil {
		return Row{}, err
	}
	if len(rows) == 0 {
		return Row{}, fmt.Errorf("reaction %d: %w", id, ErrNotFound)
	}
	return rows[0], nil
}

func (r Row) refuse(format string, values ...any) error {
	return fmt.Errorf("%w: reaction %d to node %s %s", ErrRefused, r.ID, r.Node, fmt.Sprintf(format, values...))
}

// claimable says whether the row, by itself, can be claimed.
func (r Row) claimable(by By) error {
	leased := by.Now.Before(r.Lease)
	switch {
	case !slices.Contains([]api.ReactionState{api.ReactionDue, api.ReactionClaimed, api.ReactionLifting}, r.State):
		return r.refuse("is %s", r.State)
	case leased && (r.State == api.ReactionClaimed || r.ClaimedBy != by.Name):
		return r.refuse("is claimed by %s until %s", r.ClaimedBy, r.Lease.Format(time.RFC3339))
	case by.Now.Before(r.NotBefore):
		return r.refuse("failed %d times and is tried again at %s", r.Failed, r.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// bears checks that reactions are not suspended and that the decision is what the store's present verdict asks for.
func bears(b Book, r Row, current Current) error {
	s, err := b.Suspension()
	if err != nil {
		return err
	}
	if s.Suspended {
		return r.refuse("is not claimable: %s", suspended(s))
	}
	want, err := current(r.Node)
	if err != nil {
		return err
	}
	if want == nil || !r.answers(*want) {
		return r.refuse("no longer follows from the node's verdict and assignment")
	}
	identity, err := b.Identity(r.Node)
	if err != nil {
		return err
	}
	if !sameNode(r.Identity, identity) {
		return r.refuse("was decided when the agent was another Kubernetes node's, or none's")
	}
	return nil
}

// Report takes an operator's word on what it claimed.
func Report(b Book, by By, report api.ReactionReport, current Current) (Row, error) {
	r, err := find(b, by.ID)
	if err != nil {
		return Row{}, err
	}
	switch {
	case r.State != api.ReactionClaimed:
		return Row{}, r.refuse("is %s, not claimed", r.State)
	case r.ClaimedBy != by.Name:
		return Row{}, r.refuse("is claimed by %s, not by %s", r.ClaimedBy, by.Name)
	case r.Claim != report.Claim: // by an instance of the same name whose claim ran out
		return Row{}, r.refuse("is at its claim %d, and the report is of claim %d", r.Claim, report.Claim)
	}
	r.ClaimedBy, r.Lease, r.Detail = "", time.Time{}, report.Detail
	switch {
	case !report.Done:
		return put(b, r.again(by.Now), by.Now)
	case !r.Lifting:
		r.State, r.Failed, r.NotBefore = api.ReactionApplied, 0, time.Time{}
		return put(b, r, by.Now)
	}
	r.State, r.Lifting = api.ReactionLifted, false
	if r, err = put(b, r, by.Now); err != nil {
		return Row{}, err
	}
	// The node may have failed again meanwhile.
	want, err := current(r.Node)
	if err != nil {
		return Row{}, err
	}
	if err := Settle(b, r.Node, want, by.Now); err != nil {
		return Row{}, err
	}
	return r, fill(b, r.Owner, by.Now)
}

// again puts a row back after a failed attempt.
func (r Row) again(now time.Time) Row {
	pause := min(firstPause<<min(r.Failed, 10), maxPause)
	r.Failed++
	r.NotBefore = now.Add(pause)
	if r.State = api.ReactionDue; r.Lifting {
		r.State = api.ReactionLifting
	}
	return r
}
