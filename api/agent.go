package api

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
)

// Paths of the agent's part of the API. Bootstrap is open; the rest needs a session, and heartbeat and preflight that or Unproven.
const (
	PathAgentBootstrap = "/api/v1/agent/bootstrap"
	PathAgentSessions  = "/api/v1/agent/sessions"
	PathAgentHeartbeat = "/api/v1/agent/heartbeat"
	PathAgentPreflight = "/api/v1/agent/preflight"
)

// SessionDomain separates the session proof from every other use of the AK: qualifyingData =
// SHA-256(SessionDomain || challenge || SHA-256(SPKI of the client's TLS key)).
const SessionDomain = "assay.agent.v1"

// Bootstrap is what an agent needs to know of its server: GET PathAgentBootstrap. Its trust comes from the TLS connection,
// whose chain holds the CA that the agent's configuration or join token pins.
type Bootstrap struct {
	// RegistrarPort is where agents register over TLS; the host is the one that the agent dialled.
	RegistrarPort int `json:"registrarPort"`
	// ServerCAs and ClientCAs are PEM bundles: who may be this server, and who may ask this agent for quotes.
	ServerCAs string `json:"serverCAs"`
	ClientCAs string `json:"clientCAs"`
}

// SessionRequest asks for a challenge: POST PathAgentSessions, over TLS with a client certificate (self-signed suffices).
type SessionRequest struct {
	Agent attest.AgentID `json:"agent"`
}

// SessionChallenge is the answer, status 201.
type SessionChallenge struct {
	Session   string    `json:"session"`
	Challenge []byte    `json:"challenge"`
	Expires   time.Time `json:"expires"`
}

// SessionProof answers the challenge: PUT PathAgentSessions/{session}. Attest is the TPMS_ATTEST of TPM2_Certify of the AK by itself
// with the qualifying data of SessionDomain, Signature the TPMT_SIGNATURE. NodeToken, in Kubernetes, is the projected token that claims the
// node (Claim); it proves nothing of the session.
type SessionProof struct {
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
	NodeToken string `json:"nodeToken,omitempty"`
}

// SessionToken is the answer, status 200. The token goes into "Authorization: Bearer" and holds only for connections with
// the same TLS key. An agent without a TPM sends its join token's ID.SECRET there instead (Unproven).
type SessionToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Heartbeat says that an agent lives: POST PathAgentHeartbeat, status 204. Nothing in it relaxes a check.
type Heartbeat struct {
	Version string `json:"version"`
	Kernel  string `json:"kernel"`
	// Uptime is the machine's, in seconds.
	Uptime int64 `json:"uptime"`
}

// Preflight is what the agent found out about its machine: POST PathAgentPreflight, status 204.
type Preflight struct {
	Checks []PreflightCheck `json:"checks"`
}

// MaxPreflightChecks bounds Preflight.Checks.
const MaxPreflightChecks = 64

// PreflightCheck is one finding of the preflight.
type PreflightCheck struct {
	// Name is a stable word such as "tpm", "ima-list", "ima-policy", "boot-log", "pcr-banks".
	Name string `json:"name"`
	// Status is ok, warning or failing.
	Status PreflightStatus `json:"status"`
	Detail string          `json:"detail"`
	Remedy string          `json:"remedy,omitempty"`
}

// PreflightStatus grades a finding.
type PreflightStatus string

// The grades: ok, works with less coverage, does not work.
const (
	PreflightOK      PreflightStatus = "ok"
	PreflightWarning PreflightStatus = "warning"
	PreflightFailing PreflightStatus = "failing"
)

// JoinToken is a CA pin with a one-time secret. With it an agent finds its server's CA and may take a name of its own.
type JoinToken struct {
	// Pin is the SHA-256 digest of the SubjectPublicKeyInfo of the servers' CA.
	Pin attest.Digest
	// ID names the token in lists; Secret proves it.
	ID     string
	Secret []byte
}

const joinTokenPrefix = "assay1"

// String returns the text form: assay1.PIN.ID.SECRET, PIN and SECRET in unpadded base64url. It holds the secret: print it once.
func (t JoinToken) String() string {
	return strings.Join([]string{joinTokenPrefix, base64.RawURLEncoding.EncodeToString(t.Pin.Bytes()), t.Credential()}, ".")
}

// Credential returns ID.SECRET: what is sent to the server, which knows its own pin.
func (t JoinToken) Credential() string {
	return t.ID + "." + base64.RawURLEncoding.EncodeToString(t.Secret)
}

// ParseJoinToken reads String's form. Its errors never hold the secret.
func ParseJoinToken(text string) (JoinToken, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 4 || parts[0] != joinTokenPrefix {
		return JoinToken{}, fmt.Errorf("join token: want %s.PIN.ID.SECRET, have %d parts", joinTokenPrefix, len(parts))
	}
	sum, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: pin: %w", err)
	}
	pin, err := attest.NewDigest(attest.SHA256, sum)
	if err != nil {
		return JoinToken{}, fmt.Errorf("join token: pin: %w", err)
	}
	id, secret, err := ParseJoinCredential(parts[2] + "." + parts[3])
	if err != nil {
		return JoinToken{}, err
	}
	return JoinToken{Pin: pin, ID: id, Secret: secret}, nil
}

// ParseJoinCredential reads Credential's form.
func ParseJoinCredential(text string) (id string, secret []byte, err error) {
	id, encoded, found := strings.Cut(text, ".")
	if !found || id == "" || len(id) > 32 {
		return "", nil, fmt.Errorf("join token: want ID.SECRET with an ID of 1 to 32 characters")
	}
	secret, err = base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(secret) < 16 || len(secret) > 64 {
		return "", nil, fmt.Errorf("join token %q: the secret is not 16 to 64 bytes in base64url", id)
	}
	return id, secret, nil
}
