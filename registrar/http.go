package registrar

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/wire"
)

// maxBodyBytes bounds a request's body: ten certificates in PEM, which are more than a TPM holds, fit.
const maxBodyBytes = 128 << 10

// maxLoggedPath bounds what a stranger writes into the log with one request.
const maxLoggedPath = 200

// Retry-After of answers that say that there is no room, in seconds.
const retryWhenFull = 60

// statuses maps sentinel errors to statuses; the first match wins.
var statuses = []struct {
	err    error
	status int
}{
	{ErrInvalid, http.StatusBadRequest},
	{ErrTag, http.StatusBadRequest},
	{ErrToken, http.StatusUnauthorized},
	{ErrIdentity, http.StatusForbidden},
	{ErrEKTaken, http.StatusForbidden},
	{ErrNotFound, http.StatusNotFound},
	{ErrFull, http.StatusServiceUnavailable},
}

// action is one operation of the protocol. Its name is the reference's, which refusals hold. Public ones need no certificate.
type action struct {
	name   string
	roles  []mtls.Role // nil: public
	answer func(r *Registrar, req *http.Request, id attest.AgentID) (any, error)
}

// actions returns those of a path, by method; none for a path that does not exist. segments begin behind the version.
func actions(segments []string) map[string]action {
	reading := []mtls.Role{mtls.Administrator, mtls.Operator, mtls.VerifierClient, mtls.Viewer}
	writing := []mtls.Role{mtls.Administrator, mtls.Operator}
	register := action{"register_agent", nil, (*Registrar).register}
	activate := action{"activate_agent", nil, (*Registrar).activate}
	switch {
	case len(segments) == 0 || segments[0] != "agents":
		return nil
	case len(segments) == 1:
		return map[string]action{
			http.MethodGet:  {"list_registrations", reading, (*Registrar).list},
			http.MethodPost: register,
		}
	case len(segments) == 2:
		return map[string]action{
			http.MethodGet:    {"read_registration", reading, (*Registrar).show},
			http.MethodDelete: {"delete_registration", writing, (*Registrar).delete},
			http.MethodPost:   register,
			http.MethodPut:    activate,
		}
	case len(segments) == 3 && segments[2] == "activate":
		return map[string]action{http.MethodPut: activate, http.MethodPost: activate}
	}
	return nil
}

// route finds the actions of a path and the agent that it names, perhaps none.
func route(path string) (found map[string]action, agent string, err error) {
	segments := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	switch {
	case len(segments) == 1 && segments[0] == "version":
		return map[string]action{http.MethodGet: {"read_version", nil, (*Registrar).version}}, "", nil
	case len(segments) == 0 || !isVersion(segments[0]):
		return nil, "", nil
	}
	if _, err := wire.PathVersion(segments[0]); err != nil {
		return nil, "", err
	}
	if len(segments) > 2 {
		agent = segments[2]
	}
	return actions(segments[1:]), agent, nil
}

// isVersion reports whether a segment looks like a version, known or not.
func isVersion(segment string) bool {
	return len(segment) > 1 && segment[0] == 'v' && segment[1] >= '0' && segment[1] <= '9'
}

// Handler serves the protocol for a TLS listener that asks for client certificates and does not insist on them.
func (r *Registrar) Handler() http.Handler { return r.handler((*Registrar).authorized) }

// PlainHandler serves registration, activation and the version only, for agents that speak plain HTTP. What needs a certificate is
// answered with 400 and no body, as the reference does.
func (r *Registrar) PlainHandler() http.Handler {
	return r.handler(func(_ *Registrar, w http.ResponseWriter, _ *http.Request, act action) bool {
		if act.roles != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		return act.roles == nil
	})
}

// handler routes requests. allow reports whether the caller may, and answers if not.
func (r *Registrar) handler(allow func(*Registrar, http.ResponseWriter, *http.Request, action) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Request-ID", wire.RequestID(req.Header.Get("X-Request-ID")))
		req.Body = http.MaxBytesReader(w, req.Body, maxBodyBytes)
		found, agent, err := route(req.URL.Path)
		if err != nil {
			wire.WriteStatus(w, http.StatusBadRequest, err.Error())
			return
		}
		act, ok := found[req.Method]
		switch {
		case found == nil:
			w.WriteHeader(http.StatusNotFound)
		case req.Header.Get("Authorization") != "": // the reference knows bearers on its verifier only: here each is an invalid one
			wire.WriteError(w, http.StatusUnauthorized, "Invalid authentication token")
		case !ok:
			w.Header().Set("Allow", strings.Join(slices.Sorted(maps.Keys(found)), ", "))
			w.WriteHeader(http.StatusMethodNotAllowed)
		case allow(r, w, req, act):
			r.serve(w, req, act, agent)
		}
	})
}

// authorized checks the caller's role.
func (r *Registrar) authorized(w http.ResponseWriter, req *http.Request, act action) bool {
	if act.roles == nil {
		return true
	}
	role, name, ok := r.cfg.Role(req.TLS)
	if !ok {
		wire.WriteError(w, http.StatusForbidden, fmt.Sprintf("Action %s requires admin authentication (mTLS certificate)", act.name))
		return false
	}
	if !slices.Contains(act.roles, role) {
		wire.WriteError(w, http.StatusForbidden, fmt.Sprintf("Action %s needs one of the roles %v; the certificate of %q has the role %s", act.name, act.roles, name, role))
		return false
	}
	r.cfg.Log.Debug("administrative request", "action", act.name, "path", req.URL.Path, "by", name, "role", role)
	return true
}

// serve limits what strangers may do, answers, and maps errors by the one table.
func (r *Registrar) serve(w http.ResponseWriter, req *http.Request, act action, agent string) {
	results, err := r.answer(req, act, agent)
	if err != nil {
		r.metrics.request(act.name, r.fail(w, req, err))
		return
	}
	r.metrics.request(act.name, http.StatusOK)
	wire.WriteResults(w, results)
}

func (r *Registrar) answer(req *http.Request, act action, agent string) (any, error) {
	var id attest.AgentID
	if agent != "" {
		var err error
		if id, err = attest.ParseAgentID(agent); err != nil {
			return nil, refuse(ErrInvalid, "%v", err)
		}
	}
	if act.roles == nil {
		if wait := r.limits.wait(req, id, r.cfg.Now()); wait > 0 {
			return nil, &rateError{wait}
		}
	}
	return act.answer(r, req, id)
}

// rateError says how long a caller has to wait.
type rateError struct{ wait time.Duration }

func (e *rateError) Error() string {
	return fmt.Sprintf("Too many requests; try again in %d seconds", e.seconds())
}
func (e *rateError) seconds() int { return int(math.Ceil(e.wait.Seconds())) }

// fail answers with an error and returns its status. What is the registrar's own trouble goes to its log only.
func (r *Registrar) fail(w http.ResponseWriter, req *http.Request, err error) int {
	status := http.StatusInternalServerError
	if s, ok := httpjson.StatusOf(err); ok {
		status = s
	}
	for _, row := range statuses {
		if errors.Is(err, row.err) {
			status = row.status
			break
		}
	}
	text := err.Error()
	var limit *rateError
	switch {
	case errors.As(err, &limit):
		status = http.StatusTooManyRequests
		w.Header().Set("Retry-After", strconv.Itoa(limit.seconds()))
	case status == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", strconv.Itoa(retryWhenFull))
	case status == http.StatusInternalServerError:
		r.cfg.Log.Error("request", "method", req.Method, "path", req.URL.Path, "err", err)
		text = "the registrar could not do this; its log says why"
	default:
		r.cfg.Log.Info("request refused", "method", req.Method, "path", fmt.Sprintf("%.*s", maxLoggedPath, req.URL.Path), "status", status, "err", err)
	}
	wire.WriteStatus(w, status, text)
	return status
}

func (r *Registrar) version(*http.Request, attest.AgentID) (any, error) {
	return wire.RegistrarVersionResults{CurrentVersion: wire.CurrentVersion().String(), SupportedVersions: wire.VersionNames()}, nil
}

// decode reads a body. Members that we do not know are tolerated: the reference's agents may learn new ones.
func decode(req *http.Request, into any) error {
	if !httpjson.IsJSON(req) {
		return refuse(ErrInvalid, "Content-Type is %.80q, not application/json", req.Header.Get("Content-Type"))
	}
	return httpjson.DecodeTolerant(req.Body, maxBodyBytes, into)
}

func (r *Registrar) register(req *http.Request, id attest.AgentID) (any, error) {
	var body wire.RegisterRequest
	if err := decode(req, &body); err != nil {
		return nil, err
	}
	if id == "" {
		var err error
		if id, err = attest.ParseAgentID(body.AgentID); err != nil {
			return nil, refuse(ErrInvalid, "agent_id: %v", err)
		}
	}
	credential, err := r.Register(req.Context(), Caller{id, addressOf(req)}, body)
	if err != nil {
		return nil, err
	}
	r.cfg.Log.Info("agent registered and has to activate", "agent", id, "peer", req.RemoteAddr)
	return wire.RegisterResults{Blob: wire.PackCredential(credential)}, nil
}

func (r *Registrar) activate(req *http.Request, id attest.AgentID) (any, error) {
	var body wire.ActivateRequest
	if err := decode(req, &body); err != nil {
		return nil, err
	}
	if body.AuthTag == "" {
		return nil, refuse(ErrInvalid, "auth_tag: missing")
	}
	approval, err := r.Activate(req.Context(), id, body.AuthTag)
	if err != nil {
		return nil, err
	}
	r.cfg.Log.Info("agent activated", "agent", id, "peer", req.RemoteAddr, "approval", approval)
	return wire.ActivateResults{Approval: approval}, nil
}

func (r *Registrar) list(req *http.Request, _ attest.AgentID) (any, error) {
	ids, err := r.List(req.Context())
	if err != nil {
		return nil, err
	}
	return wire.AgentList{UUIDs: ids}, nil
}

func (r *Registrar) show(req *http.Request, id attest.AgentID) (any, error) {
	return r.Show(req.Context(), id)
}

func (r *Registrar) delete(req *http.Request, id attest.AgentID) (any, error) {
	if err := r.Delete(req.Context(), id); err != nil {
		return nil, err
	}
	_, name, _ := r.cfg.Role(req.TLS)
	r.cfg.Log.Info("agent deleted", "agent", id, "by", name)
	return wire.Empty{}, nil
}
