package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
)

// operationPath fills a pattern with something that is not there, so that nothing changes.
func operationPath(pattern string) string {
	return strings.NewReplacer("{id}", "nobody", "{act}", "pause", "{name}", "none", "{digest}", attest.SHA256.Sum(nil).String(), "{session}", "none").Replace(pattern)
}

func TestRoutesAreTheOperations(t *testing.T) {
	var served, promised []string
	for _, r := range routes() {
		served = append(served, r.method+" "+r.pattern)
	}
	for _, o := range api.Operations() {
		promised = append(promised, o.Method+" "+o.Path)
	}
	slices.Sort(served)
	slices.Sort(promised)
	if !slices.Equal(served, promised) {
		t.Errorf("served:\n%s\npromised:\n%s", strings.Join(served, "\n"), strings.Join(promised, "\n"))
	}
}

// Each operation with each role: by hand, so that a change of a role is seen here.
func TestRoles(t *testing.T) {
	const (
		everyReader = "administrator operator viewer policy-author"
		actors      = "administrator operator"
		writers     = "administrator policy-author"
		admin       = "administrator"
		operator    = "operator"
		anybody     = "anybody"
	)
	allowed := map[string]string{
		"GET /api/v1/server": everyReader, "GET /api/v1/nodes": everyReader, "POST /api/v1/nodes": actors,
		"GET /api/v1/nodes/{id}": everyReader, "PATCH /api/v1/nodes/{id}": actors, "DELETE /api/v1/nodes/{id}": actors,
		"PUT /api/v1/nodes/{id}/cordon": operator,
		"POST /api/v1/nodes/{id}/{act}": admin, "GET /api/v1/nodes/{id}/results": everyReader,
		"GET /api/v1/nodes/{id}/failures": everyReader, "GET /api/v1/nodes/{id}/evidence": everyReader, "GET /api/v1/watch": everyReader,
		"GET /api/v1/policies": everyReader, "POST /api/v1/policies": writers, "GET /api/v1/policies/{name}": everyReader,
		"DELETE /api/v1/policies/{digest}": writers, "GET /api/v1/endorsements": everyReader, "POST /api/v1/endorsements": admin,
		"DELETE /api/v1/endorsements/{digest}": admin, "GET /api/v1/endorsements/check/{id}": everyReader,
		"GET /api/v1/endorsements/keys": everyReader, "POST /api/v1/endorsements/keys": admin, "DELETE /api/v1/endorsements/keys/{id}": admin,
		"GET /api/v1/tokens": admin, "POST /api/v1/tokens": admin, "DELETE /api/v1/tokens/{id}": admin, "POST /api/v1/certificates": admin,
		"GET /api/v1/registered": everyReader, "GET /api/v1/pending": everyReader, "POST /api/v1/pending/{id}/approve": admin,
		"GET /api/v1/reactions": everyReader, "POST /api/v1/reactions/{id}/claim": operator, "POST /api/v1/reactions/{id}/report": operator,
		"GET /api/v1/suspension": everyReader, "PUT /api/v1/suspension": actors,
		"GET /api/v1/claims": operator, "POST /api/v1/claims/{id}": operator,
		"GET /api/v1/openapi.json": anybody, "GET /api/v1/agent/bootstrap": anybody, "POST /api/v1/agent/sessions": anybody,
		"PUT /api/v1/agent/sessions/{session}": anybody, "POST /api/v1/agent/heartbeat": anybody, "POST /api/v1/agent/preflight": anybody,
	}
	s := newSite(t)
	callers := map[string]*http.Client{
		"nobody": s.client(nil), "a self-signed agent": s.client(mtlstest.SelfSigned(t)), "a self-made administrator": s.client(pretender(t)),
		"an agent of the agents' CA":  s.client(s.issue(mtls.Request{Role: mtls.Agent, Name: "agent", Hosts: []string{"127.0.0.1"}})),
		"a server of the servers' CA": s.client(s.issue(mtls.Request{Role: mtls.Server, Name: "server", Hosts: []string{"127.0.0.1"}})),
	}
	for _, role := range mtls.ClientRoles() {
		callers[string(role)] = s.as(role)
	}
	for _, o := range api.Operations() {
		who, ok := allowed[o.Method+" "+o.Path]
		if !ok {
			t.Errorf("%s %s: no row says who may", o.Method, o.Path)
			continue
		}
		for name, client := range callers {
			status, text := s.do(client, call{method: o.Method, path: operationPath(o.Path)})
			refused := 0
			switch {
			case slices.Contains(strings.Fields(who), name):
			case slices.Contains(mtls.ClientRoles(), mtls.Role(name)):
				refused = http.StatusForbidden
			default:
				refused = http.StatusUnauthorized
			}
			switch {
			case who == anybody && status != http.StatusForbidden: // whom the handler itself asks for a proof
			case refused != 0 && status != refused, refused == 0 && (status == http.StatusUnauthorized || status == http.StatusForbidden):
				t.Errorf("%s %s: %s gets %d %s", o.Method, o.Path, name, status, text)
			}
		}
	}
}

func TestBadRequests(t *testing.T) {
	s := newSite(t)
	admin := s.as(mtls.Administrator)
	long := strings.Repeat("x", attest.MaxAgentIDBytes+1)
	good := `{"id":"node-1","firstUse":true}`
	for name, tt := range map[string]struct {
		call
		want int
	}{
		"unknown member":            {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstuse":true,"x":1}`}, 400},
		"duplicate member":          {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","id":"node-2"}`}, 400},
		"bytes behind the value":    {call{method: "POST", path: api.PathNodes, body: good + "{}"}, 400},
		"no body":                   {call{method: "POST", path: api.PathNodes}, 400},
		"a body that is no JSON":    {call{method: "POST", path: api.PathNodes, body: "id: node-1"}, 400},
		"a form":                    {call{method: "POST", path: api.PathNodes, body: good, kind: "text/plain"}, 415},
		"an oversized body":         {call{method: "POST", path: api.PathNodes, body: `{"id":"` + strings.Repeat("x", maxBodyBytes) + `"}`}, 413},
		"oversized roots":           {call{method: "POST", path: api.PathEndorsements, body: strings.Repeat("x", maxBodyBytes+1), kind: "application/octet-stream"}, 413},
		"roots that are none":       {call{method: "POST", path: api.PathEndorsements, body: "PEM", kind: "application/octet-stream"}, 400},
		"a policy that is none":     {call{method: "POST", path: api.PathPolicies, body: "kind: Runtime", kind: "application/octet-stream"}, 400},
		"an id with a slash":        {call{method: "POST", path: api.PathNodes, body: `{"id":"a/b"}`}, 400},
		"an id that is too long":    {call{method: "GET", path: api.PathNodes + "/" + long}, 400},
		"an id with an escape":      {call{method: "GET", path: api.PathNodes + "/%1b%5b2J"}, 400},
		"an unregistered agent":     {call{method: "POST", path: api.PathNodes, body: `{"id":"nobody"}`}, 404},
		"a registrar that is away":  {call{method: "POST", path: api.PathNodes, body: `{"id":"broken"}`}, 502},
		"an EK without endorsement": {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1"}`}, 422},
		"an unknown policy":         {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"policies":["none"]}`}, 404},
		"a short interval":          {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":0.5}`}, 400},
		"a negative interval":       {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":-1}`}, 400},
		"an interval of days":       {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":86401}`}, 400},
		"an update of days":         {call{method: "PATCH", path: api.PathNodes + "/node-1", body: `{"interval":86401}`}, 400},
		"an endless interval":       {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":1e300}`}, 400},
		"a port beyond 65535":       {call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"port":65536}`}, 400},
		"limit 0":                   {call{method: "GET", path: api.PathNodes + "?limit=0"}, 400},
		"limit beyond the page":     {call{method: "GET", path: api.PathPolicies + "?limit=501"}, 400},
		"a limit that is no number": {call{method: "GET", path: api.PathNodes + "?limit=ten"}, 400},
		"a cursor of nodes":         {call{method: "GET", path: api.PathNodes + "?cursor=a%2fb"}, 400},
		"a cursor of policies":      {call{method: "GET", path: api.PathPolicies + "?cursor=sha256:00"}, 400},
		"a cursor of no policy":     {call{method: "GET", path: api.PathPolicies + "?cursor=" + attest.SHA256.Sum(nil).String()}, 400},
		"a cursor of results":       {call{method: "GET", path: api.PathNodes + "/node-2/results?cursor=-1"}, 400},
		"results of nobody":         {call{method: "GET", path: api.PathNodes + "/nobody/results"}, 404},
		"failures of nobody":        {call{method: "GET", path: api.PathNodes + "/nobody/failures"}, 404},
		"evidence of nobody":        {call{method: "GET", path: api.PathNodes + "/nobody/evidence"}, 404},
		"show nobody":               {call{method: "GET", path: api.PathNodes + "/nobody"}, 404},
		"change nobody":             {call{method: "PATCH", path: api.PathNodes + "/nobody", body: "{}"}, 404},
		"remove nobody":             {call{method: "DELETE", path: api.PathNodes + "/nobody"}, 404},
		"pause nobody":              {call{method: "POST", path: api.PathNodes + "/nobody/pause"}, 404},
		"an unknown act":            {call{method: "POST", path: api.PathNodes + "/nobody/dance"}, 404},
		"approve nobody":            {call{method: "POST", path: api.PathPending + "/nobody/approve"}, 404},
		"an unknown path":           {call{method: "GET", path: "/api/v1/nonsense"}, 404},
		"another method":            {call{method: "PUT", path: api.PathNodes}, 405},
		"a root by a bad name":      {call{method: "DELETE", path: api.PathEndorsements + "/root"}, 400},
		"an unknown root":           {call{method: "DELETE", path: api.PathEndorsements + "/" + attest.SHA256.Sum(nil).String()}, 404},
		"an unknown token":          {call{method: "DELETE", path: api.PathTokens + "/none"}, 404},
		"an endless token":          {call{method: "POST", path: api.PathTokens, body: `{"lifetime":1e12}`}, 400},
		"a page of another origin":  {call{method: "POST", path: api.PathNodes, body: good, header: map[string]string{"Sec-Fetch-Site": "cross-site"}}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			if status, text := s.do(admin, tt.call); status != tt.want {
				t.Errorf("%d, want %d: %s", status, tt.want, text)
			}
		})
	}
	if nodes, err := s.store.Nodes().Nodes(t.Context(), "", 10); err != nil || len(nodes) != 0 {
		t.Errorf("refused requests left %v, %v", nodes, err)
	}
	if status, text := s.do(admin, call{method: "POST", path: api.PathNodes, body: good}); status != http.StatusCreated {
		t.Errorf("without a fault: %d %s", status, text)
	}
}
