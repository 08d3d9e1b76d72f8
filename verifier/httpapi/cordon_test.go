package httpapi

import (
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier/boxtest"
)

// Over the API: the operator alone tells of a cordon, and people see what it hides and until when.
func TestCordonOverTheAPI(t *testing.T) {
	s := newSite(t)
	operator, viewer := s.as(mtls.Operator), s.as(mtls.Viewer)
	events := s.watchAs(viewer)
	doc := boxtest.Document(t, "base", "/usr/bin/a")
	s.into(s.as(mtls.Administrator), call{method: "POST", path: api.PathPolicies, body: string(doc.Bytes()), kind: "application/octet-stream"}, nil)
	s.into(operator, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"policies":["base"],"interval":120}`}, nil)
	for want := range 2 {
		if got := <-events; want == 1 && got.To != attest.Trusted {
			t.Fatalf("watched %+v", got)
		}
	}
	path := api.PathNodes + "/node-1/cordon"
	for body, want := range map[string]int{
		`{"cordoned":"yes"}`: 400, `{"cordoned":true,"until":"2030-01-01T00:00:00Z"}`: 400, `{"cordoned":false,"since":"2026-01-01T00:00:00Z"}`: 400,
		`{"cordoned":true,"since":"yesterday"}`: 400, ``: 400,
	} {
		if status, text := s.do(operator, call{method: "PUT", path: path, body: body}); status != want {
			t.Errorf("%s: %d %s, want %d", body, status, text, want)
		}
	}
	for _, role := range []mtls.Role{mtls.Administrator, mtls.Viewer} {
		if status, _ := s.do(s.as(role), call{method: "PUT", path: path, body: `{"cordoned":true}`}); status != 403 {
			t.Errorf("%s may tell of a cordon: %d", role, status)
		}
	}
	if status, _ := s.do(operator, call{method: "PUT", path: api.PathNodes + "/nobody/cordon", body: `{"cordoned":true}`}); status != 404 {
		t.Errorf("a cordon of nobody: %d", status)
	}
	var before, n api.Node
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/node-1"}, &before) // a cordon begins a round, which may be over before the answer
	s.into(operator, call{method: "PUT", path: path, body: `{"cordoned":true,"since":"2100-01-01T00:00:00Z"}`}, &n)
	if want := before.LastAccepted.Add(30 * time.Minute); !n.Cordoned || n.Muted == nil || !n.Muted.Until.Equal(want) || n.Muted.Stale {
		t.Fatalf("cordoned %t, muted %+v, want until %s", n.Cordoned, n.Muted, want)
	}
	version := s.versionOf(node1)
	s.into(operator, call{method: "PUT", path: path, body: `{"cordoned":true}`}, &n)
	if again := s.versionOf(node1); again != version {
		t.Errorf("the same word wrote version %d, was %d", again, version)
	}
	var free api.Node
	s.into(operator, call{method: "PUT", path: path, body: `{"cordoned":false}`}, &free)
	if free.Cordoned || free.Muted != nil {
		t.Errorf("uncordoned, and %t, %+v", free.Cordoned, free.Muted)
	}
}

// versionOf counts the writes of a node.
func (s *site) versionOf(id attest.AgentID) uint64 {
	s.t.Helper()
	n, err := s.verifier.Show(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return n.Version
}
