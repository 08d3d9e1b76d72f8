package platform

// Names of what is made, in the operator's namespace. There is one platform in a cluster, so they are fixed.
const (
	NameServer       = "assay-server"
	NameAgent        = "assay-agent"
	NamePrivileged   = "assay-agent-privileged"
	NameWithoutTPM   = "assay-agent-notpm"
	NameEmulated     = "assay-agent-emulated"
	NameDevicePlugin = "assay-device-plugin"
	// NameBundles is the ConfigMap of the authorities' certificates.
	NameBundles = "assay-ca"

	// Secrets. SecretAuthorities holds the authorities' keys: nothing mounts it.
	SecretAuthorities   = "assay-authorities"
	SecretServer        = "assay-server-tls"
	SecretVerifier      = "assay-verifier-tls"
	SecretOperator      = "assay-operator-tls"
	SecretAdministrator = "assay-admin-tls"

	fieldOwner = "assay-operator"

	labelManaged   = "app.kubernetes.io/managed-by"
	labelPart      = "app.kubernetes.io/part-of"
	labelComponent = "app.kubernetes.io/name"

	portAPI       = 8443
	portRegistrar = 8891
	portMetrics   = 9464
	portAgent     = 9002

	unprivileged = 65532 // user and group assay of our images
)

// Keys of Secrets and ConfigMaps.
const (
	keyServerCAs = "server-cas.pem"
	keyClientCAs = "client-cas.pem"
	keyCert      = "tls.crt"
	keyKey       = "tls.key"
	keyCA        = "ca.crt"
	keyToken     = "token"
)

// AgentAccount returns the user name of the agents' service account, of which alone claims to nodes are accepted.
func AgentAccount(namespace string) string {
	return "system:serviceaccount:" + namespace + ":" + NameAgent
}

// labels are those of everything that is ours; component is "" for what has none.
func labels(component string) map[string]string {
	l := map[string]string{labelManaged: "assay-operator", labelPart: "assay"}
	if component != "" {
		l[labelComponent] = component
	}
	return l
}
