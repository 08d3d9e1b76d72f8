package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeReport is what was proven about the Node of the same name. The operator writes it, on transitions only; when a node was last seen stands
// in the server's store.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="integrity.assay.dev/revision=2"
// +kubebuilder:resource:scope=Cluster,shortName=nrep
// +kubebuilder:printcolumn:name="Verdict",type=string,JSONPath=`.status.verdict`
// +kubebuilder:printcolumn:name="Policy",type=string,JSONPath=`.status.policy`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Trusted")].reason`
// +kubebuilder:printcolumn:name="TPM",type=string,JSONPath=`.status.conditions[?(@.type=="TpmPresent")].status`
// +kubebuilder:printcolumn:name="Emulated",type=boolean,JSONPath=`.status.emulated`
// +kubebuilder:printcolumn:name="Reaction",type=string,JSONPath=`.status.reaction.kinds`,priority=1
// +kubebuilder:printcolumn:name="Since",type=date,JSONPath=`.status.since`
type NodeReport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +optional
	Status NodeReportStatus `json:"status,omitempty"`
}

// NodeReportList is a list of them.
//
// +kubebuilder:object:root=true
type NodeReportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeReport `json:"items"`
}

// NodeReportStatus is the projection of the server's node. Texts from evidence are escaped and cut.
type NodeReportStatus struct {
	// NodeUID is the UID of the Node that this speaks of.
	// +optional
	NodeUID string `json:"nodeUID,omitempty"`
	// Agent is the agent's id, by default the hash of the endorsement key. It is empty without a TPM.
	// +optional
	Agent string `json:"agent,omitempty"`
	// EndorsedBy is the root that vouches for the TPM.
	// +optional
	EndorsedBy string `json:"endorsedBy,omitempty"`
	// FirstUse: nobody vouches for the TPM.
	// +optional
	FirstUse bool `json:"firstUse,omitempty"`
	// Emulated: the TPM is an emulator and proves nothing.
	// +optional
	Emulated bool `json:"emulated,omitempty"`
	// Verdict is Trusted, Failed, Stale, Pending, Unappraised or Paused.
	// +optional
	Verdict string `json:"verdict,omitempty"`
	// Since is when the verdict last changed.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// MutedUntil: the Node is cordoned, and missing evidence shows as Stale only from then on. It hides no failure.
	// +optional
	MutedUntil *metav1.Time `json:"mutedUntil,omitempty"`
	// Boot names the boot that the verdict is of.
	// +optional
	Boot string `json:"boot,omitempty"`
	// Policy is the NodePolicy that governs the node.
	// +optional
	Policy string `json:"policy,omitempty"`
	// LostPolicy is the NodePolicy that governed it last, while none does: an alarm.
	// +optional
	LostPolicy string `json:"lostPolicy,omitempty"`
	// Documents are the policies that the verdict was made with.
	// +listType=atomic
	// +optional
	Documents []Document `json:"documents,omitempty"`
	// Coverage says what the verdict leaves out, such as ContainerFilesIgnored.
	// +listType=atomic
	// +optional
	Coverage []string `json:"coverage,omitempty"`
	// Failures are the first ones; FailureCount counts them all.
	// +kubebuilder:validation:MaxItems=10
	// +listType=atomic
	// +optional
	Failures []Failure `json:"failures,omitempty"`
	// +optional
	FailureCount int32 `json:"failureCount,omitempty"`
	// Reaction is what was done to the Node and will be undone.
	// +optional
	Reaction *AppliedReaction `json:"reaction,omitempty"`
	// Refusal is the last claim to this node that was refused.
	// +optional
	Refusal *Refusal `json:"refusal,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Document is a policy document by name and digest.
type Document struct {
	Kind   string `json:"kind"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Failure is one failed check.
type Failure struct {
	ID string `json:"id"`
	// +optional
	Detail string `json:"detail,omitempty"`
	// +optional
	Path string `json:"path,omitempty"`
}

// AppliedReaction records what we did to a Node, before it is done, so that exactly this is undone.
type AppliedReaction struct {
	// ID is the server's reaction.
	ID int64 `json:"id"`
	// Kinds are what was asked for.
	// +listType=atomic
	Kinds []string `json:"kinds"`
	// Cordoned: the Node was schedulable before, so lifting makes it so again.
	// +optional
	Cordoned bool `json:"cordoned,omitempty"`
	// +optional
	DryRun bool `json:"dryRun,omitempty"`
	// TaintEffect is the effect of our taint; empty when there is none.
	// +optional
	TaintEffect string `json:"taintEffect,omitempty"`
}

// Refusal is a claim to a node that was not accepted.
type Refusal struct {
	// Agent is who claimed; empty for one without a TPM.
	// +optional
	Agent  string `json:"agent,omitempty"`
	Reason string `json:"reason"`
	// Message says what to do.
	Message string      `json:"message"`
	At      metav1.Time `json:"at"`
}
