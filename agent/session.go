package agent

import (
	"context"
	"net/http"
	"net/url"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
)

// native is the agent's side of /api/v1/agent.
type native struct {
	caller
	id  attest.AgentID
	key attest.Digest // SHA-256 of the SPKI of the TLS key that the caller presents
	tpm *device
}

// bootstrap asks for what an agent needs to know of its server.
func (n *native) bootstrap(ctx context.Context) (api.Bootstrap, error) {
	var answer api.Bootstrap
	err := n.call(ctx, request{method: http.MethodGet, path: api.PathAgentBootstrap}, &answer)
	return answer, err
}

// open proves that the AK's TPM is behind this TLS key, and gets a token for it. nodeToken claims a Kubernetes node, where it is not empty.
func (n *native) open(ctx context.Context, nodeToken string) (api.SessionToken, error) {
	var challenge api.SessionChallenge
	err := n.call(ctx, request{method: http.MethodPost, path: api.PathAgentSessions, body: api.SessionRequest{Agent: n.id}}, &challenge)
	if err != nil {
		return api.SessionToken{}, err
	}
	qualifying := attest.SHA256.Sum([]byte(api.SessionDomain), challenge.Challenge, n.key.Bytes())
	proof, err := n.tpm.Certify(n.tpm.ak, qualifying.Bytes())
	if err != nil {
		return api.SessionToken{}, err
	}
	var token api.SessionToken
	path := api.PathAgentSessions + "/" + url.PathEscape(challenge.Session)
	err = n.call(ctx, request{method: http.MethodPut, path: path, body: api.SessionProof{Attest: proof.Attest, Signature: proof.Signature, NodeToken: nodeToken}}, &token)
	return token, err
}

// beat sends a heartbeat. token is a session's or a join token; empty where the body itself says who sends it.
func (n *native) beat(ctx context.Context, token string, beat api.HeartbeatRequest) error {
	return n.call(ctx, request{method: http.MethodPost, path: api.PathAgentHeartbeat, token: token, body: beat}, nil)
}

// report sends the findings of the preflight.
func (n *native) report(ctx context.Context, token string, found api.PreflightRequest) error {
	return n.call(ctx, request{method: http.MethodPost, path: api.PathAgentPreflight, token: token, body: found}, nil)
}

// unknownToServer reports whether the server does not know the agent, or not any more.
func unknownToServer(err error) bool {
	code := statusOf(err)
	return code == http.StatusUnauthorized || code == http.StatusNotFound
}
