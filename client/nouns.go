package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// Nodes returns all nodes in the order of their ids.
func (c *Client) Nodes(ctx context.Context) ([]api.Node, error) {
	return all[api.Node](ctx, c, api.PathNodes)
}

// Node returns one node.
func (c *Client) Node(ctx context.Context, id attest.AgentID) (api.Node, error) {
	return get[api.Node](ctx, c, nodePath(id))
}

// Enrol enrols a registered agent.
func (c *Client) Enrol(ctx context.Context, r api.EnrolRequest) (api.Node, error) {
	return post[api.Node](ctx, c, api.PathNodes, r)
}

// UpdateNode changes what applies to a node.
func (c *Client) UpdateNode(ctx context.Context, id attest.AgentID, u api.NodeUpdate) (api.Node, error) {
	var n api.Node
	err := c.do(ctx, call{method: http.MethodPatch, path: nodePath(id), body: u}, &n)
	return n, err
}

// Cordon says whether the Kubernetes node of a machine is cordoned; for the operator.
func (c *Client) Cordon(ctx context.Context, id attest.AgentID, cordon api.Cordon) (api.Node, error) {
	var n api.Node
	err := c.do(ctx, call{method: http.MethodPut, path: nodePath(id, "cordon"), body: cordon}, &n)
	return n, err
}

// Act carries out pause, resume or reattest.
func (c *Client) Act(ctx context.Context, id attest.AgentID, act string) (api.Node, error) {
	return post[api.Node](ctx, c, nodePath(id, act), nil)
}

// RemoveNode ends a node's rounds and deletes it with its evidence.
func (c *Client) RemoveNode(ctx context.Context, id attest.AgentID) error {
	return c.do(ctx, call{method: http.MethodDelete, path: nodePath(id)}, nil)
}

// Results returns a node's transitions, oldest first.
func (c *Client) Results(ctx context.Context, id attest.AgentID) ([]api.Transition, error) {
	return all[api.Transition](ctx, c, nodePath(id, "results"))
}

// Evidence returns a node's last accepted evidence.
func (c *Client) Evidence(ctx context.Context, id attest.AgentID) (api.Evidence, error) {
	return c.EvidenceOf(ctx, id, attest.Digest{})
}

// EvidenceOf returns the evidence of a quote that a transition names; the zero digest asks for the last accepted one.
func (c *Client) EvidenceOf(ctx context.Context, id attest.AgentID, quote attest.Digest) (api.Evidence, error) {
	query := url.Values{}
	if !quote.IsZero() {
		query.Set("quote", quote.String())
	}
	var e api.Evidence
	err := c.do(ctx, call{method: http.MethodGet, path: nodePath(id, "evidence"), query: query}, &e)
	return e, err
}

// Policies lists the stored documents, oldest first.
func (c *Client) Policies(ctx context.Context) ([]api.Policy, error) {
	return all[api.Policy](ctx, c, api.PathPolicies)
}

// AddPolicy stores a document; it changes no verdict. A keylime name imports Keylime's JSON under it.
func (c *Client) AddPolicy(ctx context.Context, document []byte, keylimeName string) (api.Policy, error) {
	var p api.Policy
	query := url.Values{}
	if keylimeName != "" {
		query.Set("keylime", keylimeName)
	}
	err := c.do(ctx, call{method: http.MethodPost, path: api.PathPolicies, query: query, body: document}, &p)
	return p, err
}

// Policy returns a document's bytes by its name (the newest) or digest.
func (c *Client) Policy(ctx context.Context, nameOrDigest string) ([]byte, error) {
	var text []byte
	err := c.do(ctx, call{method: http.MethodGet, path: api.PathPolicies + "/" + url.PathEscape(nameOrDigest)}, &text)
	return text, err
}

// RemovePolicy deletes a document that no node has assigned.
func (c *Client) RemovePolicy(ctx context.Context, nameOrDigest string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: api.PathPolicies + "/" + url.PathEscape(nameOrDigest)}, nil)
}

// Roots lists the certificates that endorse EKs.
func (c *Client) Roots(ctx context.Context) ([]api.Root, error) {
	return all[api.Root](ctx, c, api.PathEndorsements)
}

// AddRoots adds certificates in PEM that endorse EKs.
func (c *Client) AddRoots(ctx context.Context, pem []byte) (api.RootsAdded, error) {
	return post[api.RootsAdded](ctx, c, api.PathEndorsements, pem)
}

// RemoveRoot removes one by its fingerprint.
func (c *Client) RemoveRoot(ctx context.Context, fingerprint attest.Digest) error {
	return c.do(ctx, call{method: http.MethodDelete, path: api.PathEndorsements + "/" + fingerprint.String()}, nil)
}

// CheckEndorsement says whether a registered agent's EK is endorsed.
func (c *Client) CheckEndorsement(ctx context.Context, id attest.AgentID) (api.EndorsementCheck, error) {
	return get[api.EndorsementCheck](ctx, c, api.PathEndorsements+"/check/"+url.PathEscape(string(id)))
}

// ListedKeys lists the EKs that count as endorsed by a person's word.
func (c *Client) ListedKeys(ctx context.Context) ([]api.ListedKey, error) {
	return all[api.ListedKey](ctx, c, api.PathListedKeys)
}

// ListKey has an EK count as endorsed.
func (c *Client) ListKey(ctx context.Context, k api.ListedKey) (api.ListedKey, error) {
	return post[api.ListedKey](ctx, c, api.PathListedKeys, k)
}

// UnlistKey lists an EK no longer.
func (c *Client) UnlistKey(ctx context.Context, ek attest.AgentID) error {
	return c.do(ctx, call{method: http.MethodDelete, path: api.PathListedKeys + "/" + url.PathEscape(string(ek))}, nil)
}

// Tokens lists join tokens.
func (c *Client) Tokens(ctx context.Context) ([]api.Token, error) {
	return all[api.Token](ctx, c, api.PathTokens)
}

// CreateToken makes a join token; its text is shown this once.
func (c *Client) CreateToken(ctx context.Context, r api.TokenRequest) (api.TokenCreated, error) {
	return post[api.TokenCreated](ctx, c, api.PathTokens, r)
}

// RevokeToken deletes a join token.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: api.PathTokens + "/" + url.PathEscape(id)}, nil)
}

// IssueCertificate asks for a client certificate.
func (c *Client) IssueCertificate(ctx context.Context, r api.CertificateRequest) (api.Certificate, error) {
	return post[api.Certificate](ctx, c, api.PathCertificates, r)
}

// Registered lists the agents that registered and proved their keys.
func (c *Client) Registered(ctx context.Context) ([]api.Registered, error) {
	return all[api.Registered](ctx, c, api.PathRegistered)
}

// Pending lists registrations that wait for a person.
func (c *Client) Pending(ctx context.Context) ([]api.Pending, error) {
	return all[api.Pending](ctx, c, api.PathPending)
}

// Approve lets a pending registration in.
func (c *Client) Approve(ctx context.Context, id attest.AgentID) error {
	return c.do(ctx, call{method: http.MethodPost, path: api.PathPending + "/" + url.PathEscape(string(id)) + "/approve"}, nil)
}

// Claims lists the unanswered claims of agents to Kubernetes nodes; only the operator may. They hold the agents' tokens: secrets.
func (c *Client) Claims(ctx context.Context) ([]api.Claim, error) {
	return all[api.Claim](ctx, c, api.PathClaims)
}

// AnswerClaim accepts or refuses a claim.
func (c *Client) AnswerClaim(ctx context.Context, id string, answer api.ClaimAnswer) error {
	return c.do(ctx, call{method: http.MethodPost, path: api.PathClaims + "/" + url.PathEscape(id), body: answer}, nil)
}

// AddEmulatedRoots adds certificates in PEM that endorse TPM emulators.
func (c *Client) AddEmulatedRoots(ctx context.Context, pem []byte) (api.RootsAdded, error) {
	var added api.RootsAdded
	err := c.do(ctx, call{method: http.MethodPost, path: api.PathEndorsements, query: url.Values{"emulated": {"true"}}, body: pem}, &added)
	return added, err
}
