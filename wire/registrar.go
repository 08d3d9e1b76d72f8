package wire

// RegisterRequest registers an agent: POST /v2.x/agents/{id}. Members that we do not know are tolerated.
type RegisterRequest struct {
	// AgentID stands in the body only of POST /v2.x/agents; a path's id overrides it.
	AgentID string `json:"agent_id,omitempty"`
	// AIK and EK are TPM2B_PUBLIC structures.
	AIK Binary `json:"aik_tpm"`
	EK  Binary `json:"ek_tpm"`
	// EKCert is the EK certificate, perhaps with its issuers.
	EKCert CertificateChain `json:"ekcert"`
	// The initial attestation key and the device identity, each with its certificate: IAKAttest is a TPMS_ATTEST and IAKSign a
	// TPMT_SIGNATURE of TPM2_Certify of the AIK by the IAK.
	IAKAttest   Binary      `json:"iak_attest,omitempty"`
	IAKCert     Certificate `json:"iak_cert"`
	IAKSign     Binary      `json:"iak_sign,omitempty"`
	IAK         Binary      `json:"iak_tpm,omitempty"`
	IDevIDCert  Certificate `json:"idevid_cert"`
	IDevID      Binary      `json:"idevid_tpm,omitempty"`
	IP          string      `json:"ip"`
	Certificate string      `json:"mtls_cert"`
	Port        int         `json:"port"`
	// JoinToken is ours, ID.SECRET: it allows an id other than the EK's hash. Other registrars pass over it.
	JoinToken string `json:"join_token,omitempty"`
}

// CertificateDisabled stands for the certificate of an agent that has no TLS server.
const CertificateDisabled = "disabled"

// RegisterResults answers a registration: Blob is a packed credential (PackCredential).
type RegisterResults struct {
	Blob Binary `json:"blob"`
}

// ActivateRequest proves that the credential could be opened: PUT /v2.x/agents/{id}, or PUT or POST /v2.x/agents/{id}/activate.
type ActivateRequest struct {
	// AgentID is refused by no one and used by no one: the path names the agent.
	AgentID string `json:"agent_id,omitempty"`
	// AuthTag is AuthTag(challenge, id).
	AuthTag string `json:"auth_tag"`
}

// ActivateResults answers an activation. Keylime's is {}.
type ActivateResults struct {
	// Approval is ours: why a person has to approve the agent before others see it.
	Approval string `json:"approval,omitempty"`
}

// AgentList is the results of GET /v2.x/agents at a registrar.
type AgentList struct {
	UUIDs []string `json:"uuids"`
}

// AgentRecord is the results of GET /v2.x/agents/{id} at a registrar: an activated agent.
type AgentRecord struct {
	AgentID string      `json:"agent_id"`
	EK      Binary      `json:"ek_tpm"`
	EKCert  Certificate `json:"ekcert"`
	// EKIssuers is ours: the issuers that the agent sent behind its EK certificate, each as base64 of DER.
	EKIssuers []Certificate `json:"ekcert_issuers,omitempty"`
	AIK       Binary        `json:"aik_tpm"`
	IP        *string       `json:"ip"`
	Port      *int          `json:"port"`
	// Certificate is PEM, CertificateDisabled or null.
	Certificate *string `json:"mtls_cert"`
	RegCount    int     `json:"regcount"`
}

// Chain returns the EK certificate and its issuers in DER, leaf first; nil without a certificate.
func (r AgentRecord) Chain() [][]byte {
	if len(r.EKCert) == 0 {
		return nil
	}
	chain := [][]byte{r.EKCert}
	for _, der := range r.EKIssuers {
		chain = append(chain, der)
	}
	return chain
}
