package verifier

import (
	"errors"
	"fmt"
	"slices"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/verifier/machine"
)

// ErrOwned says that what applies to a node is another object's to change.
var ErrOwned = errors.New("what applies to this node is assigned by an object")

// owned refuses a change by anybody but the owner's operator.
func (n Node) owned() error {
	if n.Assignment.Owner == "" {
		return nil
	}
	return fmt.Errorf("%w: policies of this node are assigned by %s; change that object", ErrOwned, n.Assignment.Owner)
}

// assign puts an assignment into a node, and reports whether evidence has to be judged anew for it.
func (n Node) assign(a api.Assignment) (Node, bool) {
	old := n.Assignment
	n.Assignment, n.Enrolment.Reimage = a, a.Reimage
	ignores := func(a api.Assignment) bool { return a.ContainerFiles == api.ContainerFilesIgnore }
	needsApproval := func(a api.Assignment) bool { return a.Readmit == api.ReadmitApproval }
	return n, ignores(a) != ignores(old) || needsApproval(a) != needsApproval(old) || !slices.Equal(a.EndorsedBy, old.EndorsedBy)
}

// terms are those of a node, as far as they do not change with each answer.
func (v *Verifier) terms(n Node) machine.Terms {
	return machine.Terms{Readmits: n.Assignment.Readmit != api.ReadmitApproval, Endorsed: n.endorsed(), RefusedIMAPolicies: v.RefusedIMAPolicies(n)}
}

// RefusedIMAPolicies are the digests of the IMA policies that count as approved by no document of a node.
func (v *Verifier) RefusedIMAPolicies(n Node) []attest.Digest {
	if n.Assignment.ContainerFiles == api.ContainerFilesIgnore {
		return nil
	}
	return v.cfg.ContainerIMAPolicies
}

// endorsed holds the root that endorses a node's EK against those that its assignment accepts. A root of emulators has to be named: such a
// TPM is a file on a disk.
func (n Node) endorsed() machine.Word {
	accepted, e := n.Assignment.EndorsedBy, n.Enrolment
	var why string
	switch {
	case slices.Contains(accepted, e.EndorsedRoot) && !e.EndorsedRoot.IsZero():
		return machine.Counts()
	case e.Emulated:
		why = fmt.Sprintf("The TPM is emulated: its root %.200q (%s) has to be named by the node's assignment.", e.EndorsedBy, e.EndorsedRoot)
	case len(accepted) == 0:
		return machine.Counts()
	case e.EndorsedRoot.IsZero():
		why = "The assignment names the roots that may endorse the TPM, and it is not known which one did."
	default:
		why = fmt.Sprintf("The TPM is endorsed by %.200q (%s), which the assignment does not name.", e.EndorsedBy, e.EndorsedRoot)
	}
	return machine.Doubted(attest.Fail(attest.EkNotEndorsed, why))
}

// Coverage names what the verdict of a node does not cover.
func (n Node) Coverage() []string {
	if n.Assignment.ContainerFiles == api.ContainerFilesIgnore {
		return []string{api.CoverageContainerFilesIgnored}
	}
	return []string{}
}
