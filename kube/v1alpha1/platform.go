package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AttestationPlatform is the control plane and the agents of a cluster. There is one, "cluster"; the operator makes it from the chart's
// values.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:metadata:annotations="integrity.assay.dev/revision=4"
// +kubebuilder:resource:scope=Cluster,shortName=atp
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'cluster'",message="the name of the AttestationPlatform is cluster"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Server",type=string,JSONPath=`.status.server`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.reactionsSuspended`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AttestationPlatform struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +optional
	Spec PlatformSpec `json:"spec,omitempty"`
	// +optional
	Status PlatformStatus `json:"status,omitempty"`
}

// AttestationPlatformList is a list of them.
//
// +kubebuilder:object:root=true
type AttestationPlatformList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AttestationPlatform `json:"items"`
}

// PlatformSpec is what shall run.
type PlatformSpec struct {
	// +optional
	Images Images `json:"images,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Server ServerSpec `json:"server,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Certificates CertificatesSpec `json:"certificates,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Agent AgentSpec `json:"agent,omitempty"`
	// ReactionsSuspended stops all reactions. What was applied is still undone when trust returns.
	// +optional
	ReactionsSuspended bool `json:"reactionsSuspended,omitempty"`
}

// Images are the container images. An empty one is what the operator was started with.
type Images struct {
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Server string `json:"server,omitempty"`
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Agent string `json:"agent,omitempty"`
	// Operator runs the device plugin too.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Operator string `json:"operator,omitempty"`
	// Swtpm is the emulated TPM's.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Swtpm string `json:"swtpm,omitempty"`
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	// +kubebuilder:default=IfNotPresent
	// +optional
	PullPolicy corev1.PullPolicy `json:"pullPolicy,omitempty"`
	// PullSecrets are names of Secrets in the operator's namespace.
	// +kubebuilder:validation:MaxItems=16
	// +optional
	PullSecrets []string `json:"pullSecrets,omitempty"`
}

// ServerSpec is the control plane. With External it runs elsewhere and the rest is ignored.
//
// +kubebuilder:validation:XValidation:rule="!has(self.service) || !has(self.service.nodePorts) || (has(self.service.type) && (self.service.type == 'NodePort' || self.service.type == 'LoadBalancer'))",message="service.nodePorts needs the type NodePort or LoadBalancer"
type ServerSpec struct {
	// +optional
	External *ExternalServer `json:"external,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Service ServiceSpec `json:"service,omitempty"`
	// +kubebuilder:default={}
	// +optional
	Storage StorageSpec `json:"storage,omitempty"`
	// Hosts are further names and addresses under which the server is reached; they go into its certificate.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^[A-Za-z0-9]([A-Za-z0-9.:_-]*[A-Za-z0-9])?$`
	// +optional
	Hosts []string `json:"hosts,omitempty"`
	// Interval between two rounds of a node.
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('24h')",message="the interval is 1s to 24h"
	// +optional
	Interval metav1.Duration `json:"interval,omitempty"`
	// Endorsement says whether a person may enrol a machine whose EK no vendor root endorses.
	// +kubebuilder:validation:Enum=Required;AllowFirstUse
	// +kubebuilder:default=Required
	// +optional
	Endorsement string `json:"endorsement,omitempty"`
	// +optional
	Placement `json:",inline"`
}

// Placement is where pods run and what they may use.
type Placement struct {
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// +kubebuilder:validation:MaxItems=32
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// +optional
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`
}

// ServiceSpec is how the server is reached.
type ServiceSpec struct {
	// +kubebuilder:validation:Enum=ClusterIP;NodePort;LoadBalancer
	// +kubebuilder:default=ClusterIP
	// +optional
	Type corev1.ServiceType `json:"type,omitempty"`
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
	// +optional
	NodePorts *NodePorts `json:"nodePorts,omitempty"`
}

// NodePorts are fixed ports on the nodes; 0 lets the cluster choose.
type NodePorts struct {
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	API int32 `json:"api,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65535
	// +optional
	Registrar int32 `json:"registrar,omitempty"`
}

// StorageSpec is the volume of the embedded database. It stays when the platform is removed.
type StorageSpec struct {
	// Size of the volume when it is made.
	// +kubebuilder:default="1Gi"
	// +optional
	Size resource.Quantity `json:"size,omitempty"`
	// ClassName is the storage class; absent means the cluster's default.
	// +optional
	ClassName *string `json:"className,omitempty"`
	// ExistingClaim uses this PersistentVolumeClaim of the operator's namespace instead of making one.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ExistingClaim string `json:"existingClaim,omitempty"`
}

// ExternalServer is a control plane outside the cluster.
type ExternalServer struct {
	// Address is HOST or HOST:PORT of the native API (port 8443).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=300
	// +kubebuilder:validation:Pattern=`^[^/\s]+$`
	Address string `json:"address"`
	// Registrar is HOST:PORT of its registrar; absent means the one that the server names.
	// +kubebuilder:validation:MaxLength=300
	// +optional
	Registrar string `json:"registrar,omitempty"`
	// JoinTokenSecret names a Secret with the key "token", a join token: it pins the server's CA for the agents.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	JoinTokenSecret string `json:"joinTokenSecret"`
	// OperatorSecret names a Secret with tls.crt and tls.key (a certificate of the role operator) and ca.crt (the servers' CA).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	OperatorSecret string `json:"operatorSecret"`
}

// CertificatesSpec says where certificates come from.
//
// +kubebuilder:validation:XValidation:rule="(has(self.source) && self.source == 'CertManager') == has(self.certManager)",message="certManager belongs to the source CertManager, and it alone"
// +kubebuilder:validation:XValidation:rule="(has(self.source) && self.source == 'Secrets') == has(self.secrets)",message="secrets belongs to the source Secrets, and it alone"
type CertificatesSpec struct {
	// Source is BuiltIn (the operator holds the CAs), CertManager or Secrets (supplied).
	// +kubebuilder:validation:Enum=BuiltIn;CertManager;Secrets
	// +kubebuilder:default=BuiltIn
	// +optional
	Source string `json:"source,omitempty"`
	// +optional
	CertManager *CertManagerSpec `json:"certManager,omitempty"`
	// +optional
	Secrets *CertificateSecrets `json:"secrets,omitempty"`
	// Rotation starts a rotation of the built-in CAs when it changes; any text, such as a date.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Rotation string `json:"rotation,omitempty"`
	// Overlap is how long each step of a rotation lasts, for everybody to have read the new bundle.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('5s') && duration(self) <= duration('720h')",message="the overlap is 5s to 720h"
	// +optional
	Overlap metav1.Duration `json:"overlap,omitempty"`
}

// The sources of certificates.
const (
	SourceBuiltIn     = "BuiltIn"
	SourceCertManager = "CertManager"
	SourceSecrets     = "Secrets"
)

// CertManagerSpec names the issuers. Servers and clients need separate ones: who may be a server must not be able to be a client.
//
// +kubebuilder:validation:XValidation:rule="self.servers.name != self.clients.name || (has(self.servers.kind) ? self.servers.kind : 'Issuer') != (has(self.clients.kind) ? self.clients.kind : 'Issuer')",message="servers and clients need separate issuers"
type CertManagerSpec struct {
	Servers IssuerReference `json:"servers"`
	Clients IssuerReference `json:"clients"`
}

// IssuerReference names an issuer of cert-manager.
type IssuerReference struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// +kubebuilder:validation:Enum=Issuer;ClusterIssuer
	// +kubebuilder:default=Issuer
	// +optional
	Kind string `json:"kind,omitempty"`
}

// CertificateSecrets name Secrets of the operator's namespace, each with tls.crt, tls.key and ca.crt, the bundle that proves the certificate.
type CertificateSecrets struct {
	// Server is the server's certificate.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Server string `json:"server"`
	// Verifier is a client certificate of the role verifier-client.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Verifier string `json:"verifier"`
	// Operator is a client certificate of the role operator.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Operator string `json:"operator"`
}

// AgentSpec is how agents run.
//
// +kubebuilder:validation:XValidation:rule="!has(self.tpm) || self.tpm != 'Emulated' || (has(self.emulatedNodeSelector) && self.emulatedNodeSelector.size() > 0)",message="tpm: Emulated needs emulatedNodeSelector"
// +kubebuilder:validation:XValidation:rule="!has(self.contact) || self.contact != 'NodeName' || (has(self.hostNetwork) && self.hostNetwork)",message="contact: NodeName needs hostNetwork: a node's name does not lead to its pods"
type AgentSpec struct {
	// Form is Hardened (a device plugin and single capabilities) or Privileged.
	// +kubebuilder:validation:Enum=Hardened;Privileged
	// +kubebuilder:default=Hardened
	// +optional
	Form string `json:"form,omitempty"`
	// TPM is Device, or Emulated to try the product without TPMs: on the nodes of EmulatedNodeSelector only, and marked in every output.
	// +kubebuilder:validation:Enum=Device;Emulated
	// +kubebuilder:default=Device
	// +optional
	TPM string `json:"tpm,omitempty"`
	// EmulatedNodeSelector selects the nodes that get an emulated TPM.
	// +optional
	EmulatedNodeSelector map[string]string `json:"emulatedNodeSelector,omitempty"`
	// DevicePlugin says whether ours runs. Without it something else has to offer the resource integrity.assay.dev/tpm.
	// +kubebuilder:default=true
	// +optional
	DevicePlugin *bool `json:"devicePlugin,omitempty"`
	// DeviceShares is how many pods of a node may hold the TPM at once.
	// +kubebuilder:default=8
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=64
	// +optional
	DeviceShares int32 `json:"deviceShares,omitempty"`
	// Heartbeat is the interval of heartbeats.
	// +kubebuilder:default="30s"
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('10m')",message="the heartbeat is 1s to 10m"
	// +optional
	Heartbeat metav1.Duration `json:"heartbeat,omitempty"`
	// TPMLabel is a label of Nodes: "true" says that the node has a TPM, as our device plugin would. Node Feature Discovery makes the default one by the
	// rule in deploy/nfd. A node can write it on itself: it places agents and proves nothing. Empty for none.
	// +kubebuilder:default="feature.node.kubernetes.io/tpm"
	// +kubebuilder:validation:MaxLength=317
	// +optional
	TPMLabel *string `json:"tpmLabel,omitempty"`
	// IMAPolicy is the IMA policy that agents install as /etc/ima/ima-policy for the next boot of nodes with a TPM: None touches nothing, Host
	// measures every program, Containers leaves out those in containers. A file that is none of Assay's stays. The node's init has to load it.
	// +kubebuilder:validation:Enum=None;Host;Containers
	// +kubebuilder:default=None
	// +optional
	IMAPolicy string `json:"imaPolicy,omitempty"`
	// HostNetwork lets agents answer on the node's own address instead of the pod's; a server outside the cluster needs it.
	// +optional
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// Contact is what the server is told to reach an agent by: Address is its IP address, NodeName the name of its node, which the server has to resolve.
	// A name survives a change of the address; whoever answers under it still has to hold the agent's keys.
	// +kubebuilder:validation:Enum=Address;NodeName
	// +kubebuilder:default=Address
	// +optional
	Contact string `json:"contact,omitempty"`
	// +optional
	Placement `json:",inline"`
}

// The forms of agents, of their TPM, of how they are reached, and what they install.
const (
	FormHardened    = "Hardened"
	FormPrivileged  = "Privileged"
	TPMDevice       = "Device"
	TPMEmulated     = "Emulated"
	ContactAddress  = "Address"
	ContactNodeName = "NodeName"
	IMAPolicyNone   = "None"
)

// PlatformStatus is what was found.
type PlatformStatus struct {
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Server is the address of the native API.
	// +optional
	Server string `json:"server,omitempty"`
	// ServerVersion is what the server says of itself.
	// +optional
	ServerVersion string `json:"serverVersion,omitempty"`
	// ServerCAPin is the digest of the key of the servers' CA, for join tokens and clients.
	// +optional
	ServerCAPin string `json:"serverCAPin,omitempty"`
}
