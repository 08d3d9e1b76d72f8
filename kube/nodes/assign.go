package nodes

import (
	"reflect"
	"slices"
	"strings"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/kube/v1alpha1"
)

// assign finds the governing policy and what the server has to be told.
func (s situation) assign(d *decision) *v1alpha1.NodePolicy {
	selecting := govern(s.policies, s.node)
	var policy *v1alpha1.NodePolicy
	want := wish{policies: []string{}}
	if len(selecting) > 0 {
		translated, err := wishOf(selecting[0])
		if err != nil {
			d.notes = append(d.notes, note{warning: true, reason: "PolicyInvalid", text: printable(err.Error(), maxMessageBytes)})
			return selecting[0]
		}
		policy, want = selecting[0], translated
	}
	s.ownership(d, policy)
	if !s.connected {
		return policy
	}
	agent := s.bound(d)
	switch {
	case agent == "":
	case s.machine == nil:
		d.enrol = &api.EnrolRequest{ID: agent, Policies: want.policies, Interval: want.interval, FirstUse: s.firstUse}
		if policy != nil {
			d.enrol.Assignment = &want.assignment
		}
	case policy == nil && s.keep(d):
	case policy == nil && !strings.HasPrefix(s.machine.Assignment.Owner, ownerPrefix):
		// A person's own assignment: nobody here owns the node.
	default:
		d.update = difference(s.machine, want)
	}
	return policy
}

// ownership records who governs, and the alarm of a node that nobody governs any more.
func (s situation) ownership(d *decision, policy *v1alpha1.NodePolicy) {
	switch {
	case policy != nil:
		d.status.Policy, d.status.LostPolicy = policy.Name, ""
	case d.status.Policy != "":
		d.status.Policy, d.status.LostPolicy = "", d.status.Policy
	}
}

// keep reports whether a node that no policy selects any more keeps what it was assigned: a machine must not shake off its quarantine by
// changing a label of its own. The deletion of the policy is a person's act and is carried out.
func (s situation) keep(d *decision) bool {
	left := func(p v1alpha1.NodePolicy) bool { return p.Name == d.status.LostPolicy && p.DeletionTimestamp == nil }
	return (s.machine.Verdict == attest.Failed || s.reaction != nil) && slices.ContainsFunc(s.policies, left)
}

// difference returns what has to change at the server, or nil.
func difference(have *api.Node, want wish) *api.NodeUpdate {
	var update api.NodeUpdate
	assigned := make([]string, 0, len(have.Assigned))
	for _, ref := range have.Assigned {
		assigned = append(assigned, ref.Digest.String())
	}
	slices.Sort(assigned)
	if !slices.Equal(assigned, want.policies) {
		update.Policies = &want.policies
	}
	if want.interval != 0 && want.interval != have.Interval {
		update.Interval = &want.interval
	}
	if !sameAssignment(have.Assignment, want.assignment) {
		update.Assignment = &want.assignment
	}
	if update == (api.NodeUpdate{}) {
		return nil
	}
	return &update
}

// sameAssignment compares what two assignments mean: an absent member is its default.
func sameAssignment(a, b api.Assignment) bool {
	return reflect.DeepEqual(plainAssignment(a), plainAssignment(b))
}

func plainAssignment(a api.Assignment) api.Assignment {
	def(&a.Mode, api.Observe)
	def(&a.Readmit, api.ReadmitAutomatic)
	def(&a.Reimage, api.ReimageApproval)
	def(&a.ContainerFiles, api.ContainerFilesFail)
	a.Reactions = nilIfEmpty(a.Reactions)
	a.EndorsedBy = nilIfEmpty(a.EndorsedBy)
	return a
}

func def[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

func nilIfEmpty[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}
