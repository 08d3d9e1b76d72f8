package httpapi

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/boxtest"
)

const assignedByWorkers = `{"owner":"NodePolicy/workers","mode":"Enforce","reactions":["Taint"],"budget":1}`

// eventually tries until an operator's view is as wanted.
func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not happen", what)
		}
	}
}

// The operator's way through the API: enrol with an assignment, see the failure's reaction, claim, report; people look and suspend.
func TestReactionsOverTheAPI(t *testing.T) {
	s := newSite(t)
	operator, admin := s.as(mtls.Operator), s.as(mtls.Administrator)
	s.into(admin, call{method: "POST", path: api.PathPolicies, body: string(boxtest.Document(t, "base", "/usr/bin/a").Bytes()), kind: "application/octet-stream"}, nil)
	var n api.Node
	s.into(operator, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"interval":1,"policies":["base"],"assignment":` + assignedByWorkers + `}`}, &n)
	if n.Assignment.Owner != "NodePolicy/workers" || n.Coverage == nil {
		t.Errorf("node %+v", n)
	}
	refusals := func(want int, says string, client *http.Client, c call) {
		t.Helper()
		if status, text := s.do(client, c); status != want || !strings.Contains(string(text), says) {
			t.Errorf("%s %s %s: %d %s, want %d with %q", c.method, c.path, c.body, status, text, want, says)
		}
	}
	node := api.PathNodes + "/node-1"
	refusals(409, "assigned by NodePolicy/workers; change that object", admin, call{method: "PATCH", path: node, body: `{"policies":[]}`})
	refusals(409, "assigned by NodePolicy/workers; change that object", admin, call{method: "PATCH", path: node, body: `{"assignment":{}}`})
	refusals(409, "no readmission waits", admin, call{method: "POST", path: node + "/approve"})
	var suspension api.Suspension
	s.into(admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true,"reason":"maintenance"}`}, &suspension)
	if !suspension.Suspended || suspension.By != "some administrator" || suspension.At.IsZero() {
		t.Errorf("suspension %+v", suspension)
	}
	s.boxes["node-1"].Run("/usr/bin/evil", "")
	var page api.Page[api.Reaction]
	list := func(query string) []api.Reaction {
		page = api.Page[api.Reaction]{}
		s.into(admin, call{method: "GET", path: api.PathReactions + query}, &page)
		return page.Items
	}
	s.eventually("a reaction", func() bool { return len(list("?state=open")) == 1 })
	if r := page.Items[0]; r.State != api.ReactionWaiting || !strings.Contains(r.Detail, "suspended by some administrator: maintenance") {
		t.Errorf("reaction %+v", r)
	}
	refusals(409, "is Waiting", operator, call{method: "POST", path: api.PathReactions + "/1/claim"})
	s.into(operator, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":false}`}, nil)
	var r api.Reaction
	s.into(operator, call{method: "POST", path: api.PathReactions + "/1/claim"}, &r)
	if r.State != api.ReactionClaimed || r.ClaimedBy != "some operator" || time.Until(r.Lease) <= 0 {
		t.Errorf("claimed %+v", r)
	}
	refusals(409, "claimed by some operator until", operator, call{method: "POST", path: api.PathReactions + "/1/claim"})
	refusals(400, "detail: want at most", operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"done":true,"detail":"\u001b[2J"}`})
	refusals(409, "the report is of claim 0", operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"done":true}`})
	s.into(operator, call{method: "POST", path: api.PathReactions + "/1/report", body: `{"claim":1,"done":true,"detail":"tainted"}`}, &r)
	if r.State != api.ReactionApplied || r.Detail != "tainted" {
		t.Errorf("reported %+v", r)
	}
	s.into(operator, call{method: "DELETE", path: node}, nil)
	if got := list("?state=Lifting"); len(got) != 1 {
		t.Errorf("after the removal %+v", got)
	}
	if got := list("?limit=1"); len(got) != 1 || page.Next != "1" || len(list("?limit=1&cursor=1")) != 0 || page.Next != "" {
		t.Errorf("pages %+v, next %q", got, page.Next)
	}
}

func TestBadAssignmentsAndReactions(t *testing.T) {
	s := newSite(t)
	operator, admin := s.as(mtls.Operator), s.as(mtls.Administrator)
	enrol := func(assignment string) call {
		return call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"assignment":` + assignment + `}`}
	}
	roots := call{method: "POST", path: api.PathEndorsements, body: string(boxtest.NewMaker(t, time.Now()).PEM()), kind: "application/octet-stream"}
	with := func(c call, query string) call { c.path += query; return c }
	for name, tt := range map[string]struct {
		client *http.Client
		call
		want int
		says []string
	}{
		"every mistake at once":         {operator, enrol(`{"owner":"x","mode":"Sometimes","budget":-1,"whenSilent":{"reactions":["Cordon"],"after":0}}`), 400, []string{"assignment.mode", "assignment.budget", "whenSilent.reactions[0]", "whenSilent.after"}},
		"reactions without an owner":    {operator, enrol(`{"mode":"Enforce","reactions":["Taint"]}`), 400, []string{"reactions take the budget of an owner"}},
		"an unknown member":             {operator, enrol(`{"ownr":"x"}`), 400, []string{"ownr"}},
		"an owner by an administrator":  {admin, enrol(assignedByWorkers), 403, []string{"only role operator assigns"}},
		"a state that is none":          {admin, call{method: "GET", path: api.PathReactions + "?state=Loud"}, 400, []string{`"Loud"`, "Waiting"}},
		"a cursor that is none":         {admin, call{method: "GET", path: api.PathReactions + "?cursor=-1"}, 400, []string{`"-1"`}},
		"a claim of nothing":            {operator, call{method: "POST", path: api.PathReactions + "/7/claim"}, 404, []string{"reaction 7"}},
		"a claim of a word":             {operator, call{method: "POST", path: api.PathReactions + "/seven/claim"}, 404, []string{`"seven"`}},
		"a report on nothing":           {operator, call{method: "POST", path: api.PathReactions + "/7/report", body: `{"done":true}`}, 404, []string{"reaction 7"}},
		"a suspension without a reason": {admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true}`}, 400, []string{"reason: is empty"}},
		"a suspension by another name":  {admin, call{method: "PUT", path: api.PathSuspension, body: `{"suspended":true,"reason":"x","by":"adam"}`}, 400, []string{"the server sets them"}},
		"a vendor's root by operator":   {operator, roots, 403, []string{"only role administrator adds roots of vendors"}},
		"emulated that is no word":      {admin, with(roots, "?emulated=perhaps"), 400, []string{`"perhaps"`}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text := s.do(tt.client, tt.call)
			for _, says := range tt.says {
				if status != tt.want || !strings.Contains(string(text), strings.ReplaceAll(says, `"`, `\"`)) {
					t.Errorf("%d %s, want %d with %q", status, text, tt.want, says)
				}
			}
		})
	}
	var added api.RootsAdded
	s.into(operator, with(roots, "?emulated=true"), &added)
	if len(added.Added) != 1 || !added.Added[0].Emulated {
		t.Errorf("added %+v", added)
	}
	s.into(operator, enrol(assignedByWorkers), nil)
}

// Whether the IMA policy of this boot counts as approved is shown with the node.
func TestIMAPolicyIsShown(t *testing.T) {
	s := newSite(t)
	for _, approved := range []bool{false, true} {
		n := verifier.Node{ID: node1}
		n.State.Progress.IMAPolicy = approved
		if shown := s.api.view(n).IMAPolicy; shown != approved {
			t.Errorf("approved %t, shown %t", approved, shown)
		}
	}
}
