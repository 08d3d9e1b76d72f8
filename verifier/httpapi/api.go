// Package httpapi serves /api/v1, the native API of the verifier role.
//
// A handler authenticates by the client's certificate and role, reads the request strictly, asks the verifier, a store or package identity, and
// writes what package api describes; one table maps errors to statuses. It decides nothing about evidence.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/policy"
	"github.com/assay-project/assay/reaction"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/identity"
	"github.com/assay-project/assay/verifier/machine"
)

// Bounds of request bodies.
const (
	maxBodyBytes   = 1 << 20
	maxReportBytes = 64 << 10 // kept in memory for each agent
	maxPolicyBytes = policy.MaxDocumentBytes
)

// PendingRegistrations are registrations that wait for a person. A registrar in the same process offers them.
type PendingRegistrations interface {
	Pending(ctx context.Context) ([]api.Pending, error)
	Approve(ctx context.Context, id attest.AgentID) error
}

// Config is what the native API needs beside the verifier. All members must be set, but for Pending, Redeem and Version.
type Config struct {
	Verifier  *verifier.Verifier
	Evidence  verifier.EvidenceStore
	Policies  verifier.PolicyStore
	Roots     verifier.RootStore
	Tokens    verifier.TokenStore
	Bindings  verifier.BindingStore
	Keys      verifier.KeyStore
	Registrar verifier.Registrar
	Pending   PendingRegistrations
	// Redeem binds a join token to an agent's name, as a registration does; its refusals wrap identity.ErrSession. Nil takes none from agents without a TPM.
	Redeem func(ctx context.Context, token string, secret []byte, agent attest.AgentID) error
	// Issue makes a client certificate.
	Issue func(ctx context.Context, r api.CertificateRequest) (api.Certificate, error)
	// Clients tells role and name of a client certificate that the clients' CA signed.
	Clients *mtls.Clients
	// Pin returns the SHA-256 of the servers' CA's SPKI, for join tokens; Bootstrap what is told to agents. Both may change.
	Pin       func() attest.Digest
	Bootstrap func() api.Bootstrap
	// Database says what is wrong with the database; nil is never asked.
	Database func(context.Context) error
	// AllowFirstUse lets a person enrol an agent whose EK no vendor root endorses.
	AllowFirstUse bool
	Roles         []string
	Version       string
	Now           func() time.Time
	Log           *slog.Logger
}

// API serves /api/v1.
type API struct {
	cfg       Config
	sessions  *identity.Sessions
	claims    *identity.Claims
	reports   *identity.Reports
	presences *identity.Presences
	streams   *streams
	mux       *http.ServeMux
	guarded   http.Handler
}

var (
	readers = []mtls.Role{mtls.Administrator, mtls.Operator, mtls.Viewer, mtls.PolicyAuthor}
	acting  = []mtls.Role{mtls.Administrator, mtls.Operator}
	authors = []mtls.Role{mtls.Administrator, mtls.PolicyAuthor}
	admins  = []mtls.Role{mtls.Administrator}
	// Claims hold the secrets of nodes, and only the operator can have them reviewed; it alone sees whether a Kubernetes node is cordoned.
	operators = []mtls.Role{mtls.Operator}
)

// caller is who sent a request.
type caller struct {
	role mtls.Role
	name string
}

// route is one operation of the API. who lists the roles that may call it; nil means that the handler itself authenticates.
type route struct {
	method, pattern string
	who             []mtls.Role
	serve           func(a *API, w http.ResponseWriter, r *http.Request, c caller) error
}

func routes() []route {
	return append(reactionRoutes(), []route{
		{"GET", api.PathServer, readers, (*API).server},
		{"GET", api.PathNodes, readers, (*API).listNodes},
		{"POST", api.PathNodes, acting, (*API).enrol},
		{"GET", api.PathNodes + "/{id}", readers, (*API).showNode},
		{"PATCH", api.PathNodes + "/{id}", acting, (*API).updateNode},
		{"DELETE", api.PathNodes + "/{id}", acting, (*API).removeNode},
		{"PUT", api.PathNodes + "/{id}/cordon", operators, (*API).cordon},
		{"POST", api.PathNodes + "/{id}/{act}", admins, (*API).act},
		{"GET", api.PathNodes + "/{id}/results", readers, (*API).results},
		{"GET", api.PathNodes + "/{id}/failures", readers, (*API).failures},
		{"GET", api.PathNodes + "/{id}/evidence", readers, (*API).evidence},
		{"GET", api.PathWatch, readers, (*API).watch},
		{"GET", api.PathPolicies, readers, (*API).listPolicies},
		{"POST", api.PathPolicies, authors, (*API).addPolicy},
		{"GET", api.PathPolicies + "/{name}", readers, (*API).showPolicy},
		{"DELETE", api.PathPolicies + "/{digest}", authors, (*API).removePolicy},
		{"GET", api.PathEndorsements, readers, (*API).listRoots},
		{"POST", api.PathEndorsements, acting, (*API).addRoots},
		{"DELETE", api.PathEndorsements + "/{digest}", admins, (*API).removeRoot},
		{"GET", api.PathEndorsements + "/check/{id}", readers, (*API).checkEndorsement},
		{"GET", api.PathListedKeys, readers, (*API).listKeys},
		{"POST", api.PathListedKeys, admins, (*API).addKey},
		{"DELETE", api.PathListedKeys + "/{id}", admins, (*API).removeKey},
		{"GET", api.PathTokens, admins, (*API).listTokens},
		{"POST", api.PathTokens, admins, (*API).createToken},
		{"DELETE", api.PathTokens + "/{id}", admins, (*API).revokeToken},
		{"POST", api.PathCertificates, admins, (*API).issueCertificate},
		{"GET", api.PathRegistered, readers, (*API).listRegistered},
		{"GET", api.PathPending, readers, (*API).listPending},
		{"POST", api.PathPending + "/{id}/approve", admins, (*API).approve},
		{"GET", api.PathClaims, operators, (*API).listClaims},
		{"POST", api.PathClaims + "/{id}", operators, (*API).answerClaim},
		{"GET", api.PathOpenAPI, nil, (*API).openAPI},
		{"GET", api.PathAgentBootstrap, nil, (*API).bootstrap},
		{"POST", api.PathAgentSessions, nil, (*API).beginSession},
		{"PUT", api.PathAgentSessions + "/{session}", nil, (*API).proveSession},
		{"POST", api.PathAgentHeartbeat, nil, (*API).heartbeat},
		{"POST", api.PathAgentPreflight, nil, (*API).preflight},
	}...)
}

// New makes the handler of /api/v1.
func New(cfg Config) *API {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{cfg: cfg, sessions: identity.NewSessions(cfg.Now), presences: identity.NewPresences(cfg.Now), streams: &streams{open: map[caller]int{}}, mux: http.NewServeMux()}
	a.reports = identity.NewReports(func(id attest.AgentID) bool {
		_, err := cfg.Verifier.Show(id)
		return err == nil
	})
	a.claims = identity.NewClaims(identity.ClaimsConfig{Now: cfg.Now, Log: cfg.Log, Bindings: cfg.Bindings, Live: a.live})
	for _, r := range routes() {
		a.mux.Handle(r.method+" "+r.pattern, a.guard(r))
	}
	// A browser sends its client certificate along with whatever any page makes it ask for.
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.fail(w, r, errCrossOrigin) }))
	a.guarded = crossOrigin.Handler(http.HandlerFunc(a.dispatch))
	return a
}

// ServeHTTP implements http.Handler.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.guarded.ServeHTTP(w, r) }

// dispatch finds the route. Where there is none, the answer is a Problem like every other.
func (a *API) dispatch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	handler, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	var missed statusOnly
	handler.ServeHTTP(&missed, r)
	if allow := missed.Header().Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
	}
	problem(w, missed.status, "there is no such operation; "+api.PathOpenAPI+" lists them")
}

// statusOnly takes what net/http would answer to a request without a route.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}

func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }

func (s *statusOnly) WriteHeader(status int) { s.status = status }

// Errors of the API itself.
var (
	errUnauthenticated = errors.New("a client certificate of the clients' CA is needed")
	errForbidden       = errors.New("the certificate's role may not do this")
	errCrossOrigin     = errors.New("a browser sent this for a page of another origin")
	errNotJSON         = errors.New("the body is not application/json")
)

// guard authenticates, calls the handler and maps its error by the one table.
func (a *API) guard(r route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var c caller
		if r.who != nil {
			role, name, ok := a.cfg.Clients.RoleOf(req.TLS)
			if !ok {
				a.fail(w, req, errUnauthenticated)
				return
			}
			if !slices.Contains(r.who, role) {
				a.fail(w, req, fmt.Errorf("%w: %s is %s, %s %s needs one of %v", errForbidden, name, role, r.method, r.pattern, r.who))
				return
			}
			c = caller{role: role, name: name}
		}
		if err := r.serve(a, w, req, c); err != nil {
			a.fail(w, req, err)
		}
	})
}

// statuses maps sentinel errors to statuses; the first match wins.
var statuses = []struct {
	err    error
	status int
}{
	{errUnauthenticated, http.StatusUnauthorized},
	{errForbidden, http.StatusForbidden},
	{errCrossOrigin, http.StatusForbidden},
	{errNotJSON, http.StatusUnsupportedMediaType},
	{identity.ErrSession, http.StatusUnauthorized},
	{identity.ErrClaimRefused, http.StatusForbidden},
	{identity.ErrTooMany, http.StatusServiceUnavailable},
	{errTooManyStreams, http.StatusTooManyRequests},
	{verifier.ErrNotFound, http.StatusNotFound},
	{verifier.ErrExpired, http.StatusGone},
	{verifier.ErrExists, http.StatusConflict},
	{verifier.ErrInUse, http.StatusConflict},
	{verifier.ErrConflict, http.StatusConflict},
	{verifier.ErrOwned, http.StatusConflict},
	{machine.ErrNothingToApprove, http.StatusConflict},
	{reaction.ErrRefused, http.StatusConflict},
	{reaction.ErrNotFound, http.StatusNotFound},
	{verifier.ErrInvalid, http.StatusBadRequest},
	{verifier.ErrRegistrar, http.StatusBadGateway},
	{verifier.ErrNotRunning, http.StatusServiceUnavailable},
}

func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := statusOf(err)
	detail := err.Error()
	if status == http.StatusInternalServerError {
		a.cfg.Log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		detail = "the server could not do this; its log says why"
	}
	problem(w, status, detail)
}

func problem(w http.ResponseWriter, status int, detail string) {
	httpjson.Write(w, status, api.Problem{Status: status, Title: http.StatusText(status), Detail: detail})
}

func statusOf(err error) int {
	var refused *verifier.RefusedError
	if errors.As(err, &refused) {
		return http.StatusUnprocessableEntity
	}
	if status, ok := httpjson.StatusOf(err); ok {
		return status
	}
	for _, row := range statuses {
		if errors.Is(err, row.err) {
			return row.status
		}
	}
	return http.StatusInternalServerError
}

func (a *API) server(w http.ResponseWriter, r *http.Request, c caller) error {
	answer := api.Server{Version: a.cfg.Version, Roles: a.cfg.Roles, Interval: a.cfg.Verifier.Interval(verifier.Node{}).Seconds(), Name: c.name, Role: string(c.role)}
	if a.cfg.Database != nil {
		ctx, cancel := context.WithTimeout(r.Context(), databaseCheckLimit)
		defer cancel()
		if err := a.cfg.Database(ctx); err != nil {
			answer.Database = err.Error()
		}
	}
	httpjson.Write(w, http.StatusOK, answer)
	return nil
}

// databaseCheckLimit bounds the look at the database of who asks for the server.
const databaseCheckLimit = 2 * time.Second

func (a *API) openAPI(w http.ResponseWriter, _ *http.Request, _ caller) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(api.OpenAPI())
	return err
}

// page reads limit and cursor of a list request.
func page(r *http.Request) (after string, limit int, err error) {
	limit = api.DefaultPage
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > api.MaxPage {
			return "", 0, fmt.Errorf("%w: limit %.20q is not 1 to %d", verifier.ErrInvalid, text, api.MaxPage)
		}
	}
	return r.URL.Query().Get("cursor"), limit, nil
}

// pageOf shows rows as the items of a page.
func pageOf[Row, Item any](rows []Row, item func(Row) Item) api.Page[Item] {
	items := make([]Item, 0, len(rows))
	for _, row := range rows {
		items = append(items, item(row))
	}
	return api.Page[Item]{Items: items}
}

func pathID(r *http.Request) (attest.AgentID, error) {
	id, err := attest.ParseAgentID(r.PathValue("id"))
	if err != nil {
		return "", fmt.Errorf("%w: %w", verifier.ErrInvalid, err)
	}
	return id, nil
}

func seconds(s float64) (time.Duration, error) {
	if s != s || s < 0 || s > 365*24*3600 {
		return 0, fmt.Errorf("%w: %v seconds is not 0 to a year", verifier.ErrInvalid, s)
	}
	return time.Duration(s * float64(time.Second)), nil
}

// decode reads a strict JSON body of at most limit bytes.
func decode(r *http.Request, limit int64, into any) error {
	if !httpjson.IsJSON(r) {
		return fmt.Errorf("%w but %.80q", errNotJSON, r.Header.Get("Content-Type"))
	}
	return httpjson.Decode(r.Body, limit, into)
}

// body reads a document of at most limit bytes.
func body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, fmt.Errorf("%w: read body: %w", verifier.ErrInvalid, err)
	}
	return text, nil
}
