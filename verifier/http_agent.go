package verifier

import (
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
)

// reports hold what agents last said of themselves. They are for people: no check reads them. Only agents with a proven session can
// write, so their number is bounded by that of the registered agents.
type reports struct {
	mu sync.Mutex
	by map[attest.AgentID]api.AgentReport
}

func newReports() *reports { return &reports{by: make(map[attest.AgentID]api.AgentReport)} }

func (r *reports) of(id attest.AgentID) *api.AgentReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	if report, ok := r.by[id]; ok {
		return &report
	}
	return nil
}

func (r *reports) update(id attest.AgentID, change func(*api.AgentReport)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	report := r.by[id]
	change(&report)
	r.by[id] = report
}

func (a *API) bootstrap(w http.ResponseWriter, _ *http.Request, _ caller) error {
	httpjson.Write(w, http.StatusOK, a.cfg.Bootstrap)
	return nil
}

// peerKey is the TLS key that a session is bound to.
func (a *API) peerKey(r *http.Request) (attest.Digest, error) {
	key, ok := mtls.PeerKey(r.TLS)
	if !ok {
		return attest.Digest{}, fmt.Errorf("%w: no client certificate (a self-signed one suffices)", ErrSession)
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
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	key, err := a.peerKey(r)
	if err != nil {
		return err
	}
	challenge, err := a.sessions.begin(id, key)
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
	key, err := a.peerKey(r)
	if err != nil {
		return err
	}
	session := r.PathValue("session")
	id, err := a.sessions.challenged(session)
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
		return &RefusedError{Failures: failures}
	}
	token, err := a.sessions.prove(session, ak, key, proof)
	if err != nil {
		return err
	}
	httpjson.Write(w, http.StatusOK, token)
	return nil
}

// agent authenticates a request with a session token.
func (a *API) agent(r *http.Request) (attest.AgentID, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return "", fmt.Errorf("%w: no bearer token", ErrSession)
	}
	key, err := a.peerKey(r)
	if err != nil {
		return "", err
	}
	return a.sessions.agentOf(token, key)
}

func (a *API) heartbeat(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := a.agent(r)
	if err != nil {
		return err
	}
	var beat api.Heartbeat
	if err := decode(r, maxReportBytes, &beat); err != nil {
		return err
	}
	now := a.cfg.Now()
	a.reports.update(id, func(report *api.AgentReport) { report.At, report.Heartbeat = now, beat })
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) preflight(w http.ResponseWriter, r *http.Request, _ caller) error {
	id, err := a.agent(r)
	if err != nil {
		return err
	}
	var p api.Preflight
	if err := decode(r, maxReportBytes, &p); err != nil {
		return err
	}
	if len(p.Checks) > api.MaxPreflightChecks {
		return fmt.Errorf("%w: %d preflight checks, more than %d", ErrInvalid, len(p.Checks), api.MaxPreflightChecks)
	}
	now := a.cfg.Now()
	a.reports.update(id, func(report *api.AgentReport) { report.At, report.Preflight = now, p.Checks })
	w.WriteHeader(http.StatusNoContent)
	return nil
}
