package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// NodePolicy says what is demanded of the nodes that it selects and what follows when they fail. One policy governs a node: of several that
// select it the one with the highest priority, of those the first by name. Both sides of such a conflict show it as a condition.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="integrity.assay.dev/revision=1"
// +kubebuilder:resource:scope=Cluster,shortName=npol
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Nodes",type=integer,JSONPath=`.status.nodes`
// +kubebuilder:printcolumn:name="Trusted",type=integer,JSONPath=`.status.trusted`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Conflicting",type=string,JSONPath=`.status.conditions[?(@.type=="Conflicting")].status`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodePolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              NodePolicySpec `json:"spec"`
	// +optional
	Status NodePolicyStatus `json:"status,omitempty"`
}

// NodePolicyList is a list of them.
//
// +kubebuilder:object:root=true
type NodePolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePolicy `json:"items"`
}

// NodePolicySpec is what is demanded. The zero value of each member observes.
//
// +kubebuilder:validation:XValidation:rule="has(self.runtime) || has(self.boot) || has(self.pcr)",message="name at least one document: runtime, boot or pcr"
type NodePolicySpec struct {
	Selector NodeSelector `json:"selector"`
	// Priority decides between policies that select one node; the highest governs it.
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	// +optional
	Priority int32 `json:"priority,omitempty"`
	// Mode is Observe (report, never react) or Enforce.
	// +kubebuilder:validation:Enum=Observe;Enforce
	// +kubebuilder:default=Observe
	// +optional
	Mode string `json:"mode,omitempty"`
	// Runtime, Boot and PCR are the documents that apply.
	// +optional
	Runtime *PolicyReference `json:"runtime,omitempty"`
	// +optional
	Boot *PolicyReference `json:"boot,omitempty"`
	// +optional
	PCR *PolicyReference `json:"pcr,omitempty"`
	// Interval between rounds; absent means the server's.
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="the interval is 1s to 24h"
	// +optional
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Readmit says who lets a failed node back in after a new boot that passes: Automatic or Approval (a person).
	// +kubebuilder:validation:Enum=Automatic;Approval
	// +kubebuilder:default=Automatic
	// +optional
	Readmit string `json:"readmit,omitempty"`
	// Reimage says what becomes of a new attestation key of the same TPM: Approval (a person) or Allow.
	// +kubebuilder:validation:Enum=Approval;Allow
	// +kubebuilder:default=Approval
	// +optional
	Reimage string `json:"reimage,omitempty"`
	// ContainerFiles says what the Runtime document makes of programs that ran in containers: Fail, or Ignore, which is reduced coverage and needs
	// the IMA policy for hosts with containers.
	// +kubebuilder:validation:Enum=Fail;Ignore
	// +kubebuilder:default=Fail
	// +optional
	ContainerFiles string `json:"containerFiles,omitempty"`
	// EndorsedBy are the SHA-256 fingerprints of the roots that may vouch for the TPM. Empty accepts every root but an emulator's.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:Pattern=`^sha256:[0-9a-f]{64}$`
	// +listType=set
	// +optional
	EndorsedBy []string `json:"endorsedBy,omitempty"`
	// Reactions are taken together when a quote proves a failure, under Enforce.
	// +optional
	Reactions *NodeReactions `json:"reactions,omitempty"`
	// WhenSilent are milder reactions to a node without accepted evidence, under Enforce. Absent means none.
	// +optional
	WhenSilent *WhenSilent `json:"whenSilent,omitempty"`
}

// NodeSelector selects nodes by name, or by labels that kubelets may not write.
//
// +kubebuilder:validation:XValidation:rule="has(self.names) != (has(self.matchLabels) || has(self.matchExpressions))",message="select either by names or by labels"
// +kubebuilder:validation:XValidation:rule="(has(self.acceptNodeWritableLabels) && self.acceptNodeWritableLabels) || !has(self.matchLabels) || self.matchLabels.all(k, k.split('/')[0].endsWith('node-restriction.kubernetes.io') && (k.split('/')[0] == 'node-restriction.kubernetes.io' || k.split('/')[0].endsWith('.node-restriction.kubernetes.io')))",message="a node can write labels outside node-restriction.kubernetes.io on itself and so escape; use such a label, names, or acceptNodeWritableLabels: true"
// +kubebuilder:validation:XValidation:rule="(has(self.acceptNodeWritableLabels) && self.acceptNodeWritableLabels) || !has(self.matchExpressions) || self.matchExpressions.all(e, e.key.split('/')[0] == 'node-restriction.kubernetes.io' || e.key.split('/')[0].endsWith('.node-restriction.kubernetes.io'))",message="a node can write labels outside node-restriction.kubernetes.io on itself and so escape; use such a label, names, or acceptNodeWritableLabels: true"
type NodeSelector struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +listType=set
	// +optional
	Names []string `json:"names,omitempty"`
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=16
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +optional
	MatchExpressions []LabelRequirement `json:"matchExpressions,omitempty"`
	// AcceptNodeWritableLabels accepts labels that a node can change on itself. A node that leaves a policy so is an alarm, but it has left.
	// +optional
	AcceptNodeWritableLabels bool `json:"acceptNodeWritableLabels,omitempty"`
}

// LabelRequirement is one expression over labels.
//
// +kubebuilder:validation:XValidation:rule="(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",message="In and NotIn need values, Exists and DoesNotExist have none"
type LabelRequirement struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key"`
	// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
	Operator metav1.LabelSelectorOperator `json:"operator"`
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	// +optional
	Values []string `json:"values,omitempty"`
}

// PolicyReference names a stored policy document. The digest counts; the name is for people and must be the document's.
type PolicyReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	Digest string `json:"digest"`
}

// NodeReactions are what is done to a failed node.
type NodeReactions struct {
	// Kinds are taken together. Cordon is a convenience: a node can undo it by itself.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:Enum=Label;Taint;Notify;Cordon
	// +listType=set
	Kinds []string `json:"kinds"`
	// TaintEffect is NoSchedule or NoExecute, which evicts what does not tolerate it.
	// +kubebuilder:validation:Enum=NoSchedule;NoExecute
	// +kubebuilder:default=NoSchedule
	// +optional
	TaintEffect string `json:"taintEffect,omitempty"`
	// Budget is how many nodes of this policy may be under reaction at once, a number or a percentage of the governed nodes (rounded down, but
	// one at the least when it is above 0%).
	// +kubebuilder:validation:XIntOrString
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self >= 0 && self <= 100000 : self.matches('^(100|[0-9]{1,2})%$')",message="the budget is a number from 0 or a percentage, 0% to 100%"
	// +kubebuilder:default=1
	// +optional
	Budget intstr.IntOrString `json:"budget,omitempty"`
	// DryRun lets reactions run through without touching anything.
	// +optional
	DryRun bool `json:"dryRun,omitempty"`
}

// WhenSilent reacts to a node without accepted evidence, within the budget of the reactions, and never while over 20 % of the nodes are silent.
type WhenSilent struct {
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:Enum=Label;Taint;Notify
	// +listType=set
	Kinds []string `json:"kinds"`
	// After is how long the node has been silent before.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1m') && duration(self) <= duration('168h')",message="after is 1m to 168h"
	// +optional
	After metav1.Duration `json:"after,omitempty"`
}

// NodePolicyStatus is what became of it. Numbers change with verdicts and with nodes that come or go.
type NodePolicyStatus struct {
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Nodes are those that it governs; Trusted and Failed how many of them have that verdict.
	// +optional
	Nodes int32 `json:"nodes"`
	// +optional
	Trusted int32 `json:"trusted"`
	// +optional
	Failed int32 `json:"failed"`
	// Reacting are the nodes under reaction, of Budget at most.
	// +optional
	Reacting int32 `json:"reacting"`
	// +optional
	Budget int32 `json:"budget"`
}
