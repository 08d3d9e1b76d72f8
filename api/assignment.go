package api

import "github.com/assay-project/assay/attest"

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

// NodeIdentity is the Kubernetes Node that an agent runs on, as the API server said of its token.
type NodeIdentity struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// CoverageContainerFilesIgnored is the entry of Node.Coverage for a node whose containers are not measured by the host's policy.
const CoverageContainerFilesIgnored = "ContainerFilesIgnored"
