package v1alpha1

// Labels, taints and annotations on Nodes.
const (
	// LabelTPM on a Node says whether it has a TPM: "true" or "false". A kubelet can write it; it places agents and proves nothing.
	LabelTPM = "integrity.assay.dev/tpm"
	// LabelVerdict on a Node is its verdict. Kubelets may not write labels of this prefix (NodeRestriction).
	LabelVerdict = "assay.node-restriction.kubernetes.io/verdict"
	// TaintUntrusted is the taint of a node under reaction. Kubelets may not change taints of their Node.
	TaintUntrusted = "integrity.assay.dev/untrusted"
	// ResourceTPM is the extended resource of the device plugin.
	ResourceTPM = "integrity.assay.dev/tpm"
	// NodeRestriction ends the prefix of the labels that kubelets may not write.
	NodeRestriction = "node-restriction.kubernetes.io"
)

// Types of conditions.
const (
	// ConditionReady of AttestationPlatform and NodePolicy: everything that was asked for is there.
	ConditionReady = "Ready"
	// Conditions of AttestationPlatform. Permitted: the operator's account has the rights that it needs.
	ConditionPermitted    = "Permitted"
	ConditionCertificates = "CertificatesReady"
	ConditionServer       = "ServerAvailable"
	ConditionAgents       = "AgentsAvailable"
	// ConditionConflicting of NodePolicy: another policy selects some of the same nodes.
	ConditionConflicting = "Conflicting"
	// Conditions of NodeReport.
	ConditionRegistered = "Registered"
	ConditionEndorsed   = "Endorsed"
	ConditionTrusted    = "Trusted"
	ConditionFresh      = "Fresh"
	ConditionTpmPresent = "TpmPresent"
	ConditionImaPolicy  = "ImaPolicy"
)

// PlatformName is the only name of an AttestationPlatform.
const PlatformName = "cluster"
