package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/identity"
)

func (a *API) bootstrap(w http.ResponseWriter, _ *http.Request, _ caller) error {
	httpjson.Write(w, http.StatusOK, a.cfg.Bootstrap())
	return nil
}

// peerKey is the TLS key that a session is bound to.
func (a *API) peerKey(r *http.Request) (attest.Digest, error) {
	key, ok := mtls.PeerKey(r.TLS)
	if !ok {
		return attest.Digest{}, fmt.Errorf("%w: no client certificate (a self-signed one suffices)", identity.ErrSession)
	}
	return key, nil
}

func (a *API) beginSession(w http.ResponseWriter, r *http.Request, _ caller) error {
	var request api.SessionRequest
	if err := decode(r, maxBodyBytes, &request); err != nil {
		return err
	}
	id, err := attest.ParseAgentID(string(request.Agent))
	if err != nil {
		return fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	key, err := a.peerKey(r)
	if err != nil {
		return err
	}
	challenge, err := a.sessions.Begin(id, key)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusCreated, challenge)
	return nil
}

func (a *API) proveSession(w http.ResponseWriter, r *http.Request, _ caller) error {
	var proof api.SessionProof
	if err := decode(r, maxBodyBytes, &proof); err != nil {
		return err
	}
	if proof.NodeToken != "" {
		if err := identity.CheckNodeToken(proof.NodeToken); err != nil {
			return err
		}
	}
	key, err := a.peerKey(r)
	if err != nil {
		return err
	}
	session := r.PathValue("session")
	id, err := a.sessions.Challenged(session)
	if err != nil {
		return err
	}
	registered, err := a.cfg.Registrar.Agent(r.Context(), id)
	if err != nil {
		return fmt.Errorf("agent %s: %w", id, err)
	}
	ak, failures, err := endorsement.ParseAK(registered.AK)
	if err != nil {
		return fmt.Errorf("agent %s: attestation key: %w", id, err)
	}
	if len(failures) > 0 {
		return &verifier.RefusedError{Failures: failures}
	}
	token, err := a.sessions.Prove(session, ak, key, proof)
	if err != nil {
		return err
	}
	if proof.NodeToken != "" {
		if err := a.claims.Proven(id, proof.NodeToken); err != nil {
			return err
		}
	}
	// An agent opens a session after it registered, so this is when a new address or certificate is taken up without waiting for silence.
	if err := a.cfg.Verifier.Refresh(r.Context(), registered); err != nil && !errors.Is(err, verifier.ErrNotFound) {
		a.cfg.Log.Warn("take over what the agent registered", "node", id, "err", err)
	}
	httpjson.Write(w, http.StatusOK, token)
	return nil
}

// agent authenticates a request with a session token.
func (a *API) agent(r *http.Request) (attest.AgentID, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", fmt.Errorf("%w: no bearer token", identity.ErrSession)
	}
	key, err := a.peerKey(r)
	if err != nil {
		return "", err
	}
	return a.sessions.AgentOf(token, key)
}

func (a *API) heartbeat(w http.ResponseWriter, r *http.Request, _ caller) error {
	var beat api.HeartbeatRequest
	if err := decode(r, maxReportBytes, &beat); err != nil {
		return err
	}
	from, err := a.reporter(r, beat.Unproven, nil)
	if err != nil {
		return err
	}
	return from.report(w, func(report *api.AgentReport) { report.Heartbeat = beat.Heartbeat })
}

func (a *API) preflight(w http.ResponseWriter, r *http.Request, _ caller) error {
	var p api.PreflightRequest
	if err := decode(r, maxReportBytes, &p); err != nil {
		return err
	}
	if len(p.Checks) > api.MaxPreflightChecks {
		return fmt.Errorf("%w: %d preflight checks, more than %d", verifier.ErrInvalid, len(p.Checks), api.MaxPreflightChecks)
	}
	from, err := a.reporter(r, p.Unproven, p.Checks)
	if err != nil {
		return err
	}
	return from.report(w, func(report *api.AgentReport) { report.Preflight = p.Checks })
}

// reporter keeps what an agent says of itself. Nil is that of an agent whose claim waits: nothing of it is kept.
type reporter func(change func(*api.AgentReport)) error

func (keep reporter) report(w http.ResponseWriter, change func(*api.AgentReport)) error {
	if keep == nil {
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	if err := keep(change); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// reporter authenticates a heartbeat or a preflight: by a session or, for these two alone, by what an agent without a TPM has.
// Checks are shown to the operator while a claim waits.
func (a *API) reporter(r *http.Request, u api.Unproven, checks []api.PreflightCheck) (reporter, error) {
	token, hasBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !hasBearer && u.NodeToken != "":
		return a.claimed(u, checks)
	case strings.Contains(token, "."): // a session's token is hex
		return a.joined(r.Context(), token, u)
	case u != (api.Unproven{}) && hasBearer:
		return nil, fmt.Errorf("%w: agent, nodeToken: do not go with a session", verifier.ErrInvalid)
	}
	id, err := a.agent(r)
	if err != nil {
		return nil, err
	}
	if err := a.claims.Refused(id); err != nil {
		return nil, err
	}
	return func(change func(*api.AgentReport)) error {
		now := a.cfg.Now()
		a.reports.Update(id, func(report *api.AgentReport) { report.At = now; change(report) })
		return nil
	}, nil
}

// claimed is an agent without a TPM in Kubernetes. It is named by the node's UID, and only once the operator has said so.
func (a *API) claimed(u api.Unproven, checks []api.PreflightCheck) (reporter, error) {
	if u.Agent != "" {
		return nil, fmt.Errorf("%w: agent: the operator finds the node; a name goes with a join token only", verifier.ErrInvalid)
	}
	if err := identity.CheckNodeToken(u.NodeToken); err != nil {
		return nil, err
	}
	s, err := a.claims.Stranger(u.NodeToken, checks)
	if err != nil || !s.Accepted() {
		return nil, err
	}
	return a.present(identity.Presence{ID: attest.AgentID(s.Node.UID), Node: &s.Node}), nil
}

func (a *API) present(who identity.Presence) reporter {
	return func(change func(*api.AgentReport)) error { return a.presences.Update(who, change) }
}

// joined is an agent without a TPM that has a join token. The token binds its name as in a registration.
func (a *API) joined(ctx context.Context, credential string, u api.Unproven) (reporter, error) {
	if u.NodeToken != "" {
		return nil, fmt.Errorf("%w: nodeToken: does not go with a join token", verifier.ErrInvalid)
	}
	id, err := attest.ParseAgentID(string(u.Agent))
	if err != nil {
		return nil, fmt.Errorf("%w: agent: %w", verifier.ErrInvalid, err)
	}
	token, secret, err := api.ParseJoinCredential(credential)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", identity.ErrSession, err)
	}
	if a.cfg.Redeem == nil {
		return nil, fmt.Errorf("%w: this server takes no join tokens", identity.ErrSession)
	}
	if err := a.cfg.Redeem(ctx, token, secret, id); err != nil {
		return nil, err
	}
	// Who is known is asked about no more: the registrar would log each question. When an agent of that name is enrolled, its own row hides this one.
	live := false
	if _, known := a.presences.Of(id); !known {
		if live, err = a.live(ctx, id); err != nil {
			return nil, err
		}
	}
	if _, isHash := id.Label(); live || isHash {
		return nil, fmt.Errorf("%w: %s is the name of an agent with a TPM, which proves it in a session", errForbidden, id)
	}
	return a.present(identity.Presence{ID: id}), nil
}

// live reports whether an agent with a TPM has this name.
func (a *API) live(ctx context.Context, id attest.AgentID) (bool, error) {
	if enrolled, err := a.enrolled(id); enrolled || err != nil {
		return enrolled, err
	}
	_, err := a.cfg.Registrar.Agent(ctx, id)
	if errors.Is(err, verifier.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func (a *API) listClaims(w http.ResponseWriter, _ *http.Request, _ caller) error {
	httpjson.Write(w, http.StatusOK, api.Page[api.Claim]{Items: list(a.claims.Waiting())})
	return nil
}

func (a *API) answerClaim(w http.ResponseWriter, r *http.Request, c caller) error {
	var answer api.ClaimAnswer
	if err := decode(r, maxBodyBytes, &answer); err != nil {
		return err
	}
	end, err := a.claims.Answer(r.Context(), r.PathValue("id"), answer)
	if err != nil {
		return err
	}
	if end.Accepted() {
		a.cfg.Log.Info("claim to a Kubernetes node accepted", "agent", end.Claim.Agent, "node", end.Node.Name, "uid", end.Node.UID, "by", c.name)
		if end.Claim.Agent != "" {
			a.presences.ForgetNode(end.Node.Name)
		} else if err := a.presences.Update(identity.Presence{ID: attest.AgentID(end.Node.UID), Node: &end.Node}, func(report *api.AgentReport) {
			if end.Claim.Preflight != nil {
				report.Preflight = end.Claim.Preflight
			}
		}); err != nil {
			return err
		}
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
