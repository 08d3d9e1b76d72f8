package api

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/assay-project/assay/attest"
)

// PathClaims lists what agents say of the Kubernetes node that they run on. Only the role operator may read and answer it.
const PathClaims = "/api/v1/claims"

// NodeTokenAudience is the audience of the projected service account token that an agent claims its node with.
const NodeTokenAudience = "assay"

// Bounds of a claim and of its answer.
const (
	MaxNodeTokenBytes   = 8 << 10
	MaxClaimReasonBytes = 1 << 10
	MaxNodeNameBytes    = 253 // a DNS subdomain
)

// Claim is the word of an agent on which Kubernetes node it runs: an item of GET PathClaims, which lists at most MaxPage unanswered claims,
// those of proven agents first, each kind oldest first. The operator has the API server review Token, and answers with POST PathClaims/{id}. Nothing comes of a claim that nobody answers.
type Claim struct {
	ID string `json:"id"`
	// Agent is who proved its TPM in a session; empty for an agent without a TPM, of which nothing is proven.
	Agent attest.AgentID `json:"agent,omitempty"`
	// Token is a projected service account token with the audience NodeTokenAudience, as the agent sent it: a secret. It is in no other answer, in no
	// log and in no store.
	Token string `json:"token"`
	// Preflight is what an agent without a TPM found out about its machine, where it has said so.
	Preflight []PreflightCheck `json:"preflight,omitempty"`
	At        time.Time        `json:"at"`
}

// ClaimAnswer answers a claim: POST PathClaims/{id}, status 204; 404 when the claim has been answered, superseded or has expired; 409, with the
// reason, when the node is bound to another agent that is still registered, or the agent to another node: the claim is refused then, and the agent
// may make it again after some minutes.
type ClaimAnswer struct {
	Accepted bool `json:"accepted"`
	// Reason of a refusal is told to the agent and to the server's log.
	Reason string `json:"reason,omitempty"`
	// Node is what the token review said; needed to accept.
	Node *KubernetesNode `json:"node,omitempty"`
	// Expires is the end of the token's validity, within a day; needed to accept a claim without an agent, whose requests are accepted until then.
	Expires time.Time `json:"expires,omitzero"`
	// Replaced says that a person let the agent take the place of whoever is bound to the node or of the agent's own former node.
	Replaced bool `json:"replaced,omitempty"`
}

// KubernetesNode is a Node object by name and UID.
type KubernetesNode struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Validate reports every mistake of an answer at once.
func (a ClaimAnswer) Validate() error {
	var mistakes []error
	if len(a.Reason) > MaxClaimReasonBytes || strings.ContainsFunc(a.Reason, func(c rune) bool { return !unicode.IsPrint(c) }) {
		mistakes = append(mistakes, fmt.Errorf("reason: want at most %d bytes of printable text", MaxClaimReasonBytes))
	}
	switch {
	case a.Accepted && a.Node == nil:
		mistakes = append(mistakes, errors.New("node: is missing; an accepted claim names its node"))
	case a.Accepted:
		mistakes = append(mistakes, a.Node.validate())
	case a.Node != nil || a.Replaced:
		mistakes = append(mistakes, errors.New("node, replaced: a refused claim has none"))
	case a.Reason == "":
		mistakes = append(mistakes, errors.New("reason: is empty; the agent's owner needs one for a refusal"))
	}
	return errors.Join(mistakes...)
}

func (n KubernetesNode) validate() error {
	var mistakes []error
	inner := func(c rune) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' }
	if n.Name == "" || len(n.Name) > MaxNodeNameBytes || strings.ContainsFunc(n.Name, func(c rune) bool { return !inner(c) }) || strings.Trim(n.Name, "-.") != n.Name {
		mistakes = append(mistakes, fmt.Errorf("node.name: %.80q is no name of a Node", n.Name))
	}
	if _, err := attest.ParseAgentID(n.UID); err != nil { // it names the agent of a machine without a TPM
		mistakes = append(mistakes, fmt.Errorf("node.uid: %.80q is no UID", n.UID))
	}
	return errors.Join(mistakes...)
}

// Unproven is what an agent without a TPM sends along with heartbeat and preflight instead of a session: the name that its join token, in
// "Authorization: Bearer", is for, or its projected token. With it an agent is shown as Unappraised and never as anything better.
// An answer of 202 says that the claim waits for the operator, and that what was sent counts only once it is accepted; 401 and 403 give the reason of a refusal.
type Unproven struct {
	Agent     attest.AgentID `json:"agent,omitempty"`
	NodeToken string         `json:"nodeToken,omitempty"`
}

// HeartbeatRequest is the body of POST PathAgentHeartbeat.
type HeartbeatRequest struct {
	Heartbeat
	Unproven
}

// PreflightRequest is the body of POST PathAgentPreflight.
type PreflightRequest struct {
	Preflight
	Unproven
}
