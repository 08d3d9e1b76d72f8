package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/identity"
)

const (
	nodeToken = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0LW9mLXRoZS1ub2Rl.c2lnbmF0dXJl"
	uidA      = "7c2f8a1e-3f60-4a55-9d0e-0a2b4f6c8d10"
	uidB      = "11111111-3f60-4a55-9d0e-0a2b4f6c8d10"
)

func text(t *testing.T, value any) string {
	t.Helper()
	encoded, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

func accepted(name, uid string) api.ClaimAnswer {
	return api.ClaimAnswer{Accepted: true, Node: &api.KubernetesNode{Name: name, UID: uid}, Expires: time.Now().Add(time.Hour)}
}

// beat is the heartbeat of an agent without a session.
func (s *site) beat(client *http.Client, u api.Unproven, bearer string) (int, []byte) {
	s.t.Helper()
	c := call{method: "POST", path: api.PathAgentHeartbeat, body: text(s.t, api.HeartbeatRequest{Heartbeat: api.Heartbeat{Version: "1", Kernel: "6.1", Uptime: 5}, Unproven: u})}
	if bearer != "" {
		c.header = map[string]string{"Authorization": "Bearer " + bearer}
	}
	return s.do(client, c)
}

// session opens one for node-1 with a node token, and returns its bearer token.
func (s *site) session(certificate mtls.Source, nodeToken string) string {
	s.t.Helper()
	leaf, err := certificate()
	if err != nil {
		s.t.Fatal(err)
	}
	agent := s.client(certificate)
	var challenge api.SessionChallenge
	s.into(agent, call{method: "POST", path: api.PathAgentSessions, body: `{"agent":"node-1"}`}, &challenge)
	proof := boxtest.Prove(s.boxes["node-1"].Signer, challenge.Challenge, mtls.KeyDigest(leaf.Leaf))
	proof.NodeToken = nodeToken
	var token api.SessionToken
	s.into(agent, call{method: "PUT", path: api.PathAgentSessions + "/" + challenge.Session, body: text(s.t, proof)}, &token)
	return token.Token
}

// claims are what the operator sees.
func (s *site) claims(operator *http.Client) []api.Claim {
	s.t.Helper()
	var page api.Page[api.Claim]
	s.into(operator, call{method: "GET", path: api.PathClaims}, &page)
	return page.Items
}

func (s *site) answer(operator *http.Client, claim api.Claim, a api.ClaimAnswer) (int, string) {
	s.t.Helper()
	status, text := s.do(operator, call{method: "POST", path: api.PathClaims + "/" + claim.ID, body: text(s.t, a)})
	return status, string(text)
}

func (s *site) nodes(client *http.Client) []api.Node {
	s.t.Helper()
	var page api.Page[api.Node]
	s.into(client, call{method: "GET", path: api.PathNodes}, &page)
	return page.Items
}

// The whole way of an agent without a TPM in Kubernetes: its claim waits, is accepted, and it is shown as what it is until its token ends.
func TestClaimWithoutTPM(t *testing.T) {
	s := newSite(t)
	agent, operator, viewer := s.client(mtlstest.SelfSigned(t)), s.as(mtls.Operator), s.as(mtls.Viewer)
	u := api.Unproven{NodeToken: nodeToken}
	checks := []api.PreflightCheck{{Name: "tpm", Status: api.PreflightFailing, Detail: "no TPM 2.0"}}
	preflight := call{method: "POST", path: api.PathAgentPreflight, body: text(t, api.PreflightRequest{Preflight: api.Preflight{Checks: checks}, Unproven: u})}
	for range 2 { // repeating it makes no second claim
		if status, body := s.do(agent, preflight); status != http.StatusAccepted {
			t.Fatalf("preflight before the answer: %d %s", status, body)
		}
		if status, body := s.beat(agent, u, ""); status != http.StatusAccepted {
			t.Fatalf("heartbeat before the answer: %d %s", status, body)
		}
	}
	if nodes := s.nodes(viewer); len(nodes) != 0 {
		t.Fatalf("an unanswered claim gives %+v", nodes)
	}
	claims := s.claims(operator)
	if len(claims) != 1 || claims[0].Token != nodeToken || claims[0].Agent != "" || cmp.Diff(checks, claims[0].Preflight) != "" {
		t.Fatalf("claims %+v", claims)
	}
	if status, body := s.answer(operator, claims[0], accepted("worker-1", uidA)); status != http.StatusNoContent {
		t.Fatalf("accept: %d %s", status, body)
	}
	if status, _ := s.answer(operator, claims[0], accepted("worker-2", uidB)); status != http.StatusNotFound {
		t.Errorf("a second answer: %d", status)
	}
	if left := s.claims(operator); len(left) != 0 {
		t.Errorf("answered claims are listed: %+v", left)
	}
	if status, body := s.beat(agent, u, ""); status != http.StatusNoContent {
		t.Fatalf("heartbeat after the answer: %d %s", status, body)
	}
	nodes := s.nodes(viewer)
	if len(nodes) != 1 {
		t.Fatalf("nodes %+v", nodes)
	}
	n := nodes[0]
	if n.ID != uidA || n.Verdict != attest.Unappraised || n.TpmPresent || n.Reason != api.ReasonNoTpm || n.KubernetesNode == nil || n.KubernetesNode.Name != "worker-1" ||
		n.Heartbeat == nil || n.Heartbeat.Heartbeat.Kernel != "6.1" || len(n.Heartbeat.Preflight) != 1 {
		t.Errorf("node %+v, heartbeat %+v", n, n.Heartbeat)
	}
	later := time.Now().Add(time.Hour + time.Second)
	s.now.Store(&later)
	if status, _ := s.beat(agent, u, ""); status != http.StatusAccepted || len(s.claims(operator)) != 1 {
		t.Errorf("after the token's end: %d, want a claim that waits again", status)
	}
	s.holdsNoToken(viewer)
}

// holdsNoToken looks for the node's token where it must not be.
func (s *site) holdsNoToken(others ...*http.Client) {
	s.t.Helper()
	if strings.Contains(s.log.String(), nodeToken) {
		s.t.Error("the log holds the token")
	}
	for _, client := range append(others, s.as(mtls.Operator)) {
		for _, path := range []string{api.PathNodes, api.PathNodes + "/" + uidA, api.PathNodes + "/node-1", api.PathRegistered, api.PathPending} {
			if _, body := s.do(client, call{method: "GET", path: path}); strings.Contains(string(body), nodeToken) {
				s.t.Errorf("GET %s answers with the token", path)
			}
		}
	}
}

// One EK, one Node: a proven agent gets its node, and nobody else does while it is registered.
func TestClaimBindsNode(t *testing.T) {
	s := newSite(t)
	operator, viewer, certificate := s.as(mtls.Operator), s.as(mtls.Viewer), mtlstest.SelfSigned(t)
	s.into(s.as(mtls.Administrator), call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}, nil)
	bearer := s.session(certificate, nodeToken)
	agent := s.client(certificate)
	if status, _ := s.beat(agent, api.Unproven{}, bearer); status != http.StatusNoContent {
		t.Errorf("a proven agent waits for its claim: %d", status)
	}
	if n := s.nodes(viewer)[0]; n.KubernetesNode != nil {
		t.Errorf("an unanswered claim binds %+v", n.KubernetesNode)
	}
	claims := s.claims(operator)
	if len(claims) != 1 || claims[0].Agent != node1 {
		t.Fatalf("claims %+v", claims)
	}
	if status, body := s.answer(operator, claims[0], accepted("worker-1", uidA)); status != http.StatusNoContent {
		t.Fatalf("accept: %d %s", status, body)
	}
	if n := s.nodes(viewer)[0]; !n.TpmPresent || n.Reason != "" || n.KubernetesNode == nil || *n.KubernetesNode != (api.KubernetesNode{Name: "worker-1", UID: uidA}) {
		t.Errorf("node %+v", n)
	}

	// Another machine, without a TPM, shows a token of the same node: the relay of a stolen token, or a downgrade.
	stranger := s.client(mtlstest.SelfSigned(t))
	claim := func(token string) api.Claim {
		t.Helper()
		if status, body := s.beat(stranger, api.Unproven{NodeToken: token}, ""); status != http.StatusAccepted {
			t.Fatalf("claim: %d %s", status, body)
		}
		return s.claims(operator)[0]
	}
	status, body := s.answer(operator, claim("other.token"), accepted("worker-1", uidA))
	if status != http.StatusConflict || !strings.Contains(body, "bound to agent node-1") {
		t.Errorf("a bound node: %d %s", status, body)
	}
	status, told := s.beat(stranger, api.Unproven{NodeToken: "other.token"}, "")
	if status != http.StatusForbidden || !strings.Contains(string(told), "bound to agent node-1") {
		t.Errorf("the agent is told %d %s", status, told)
	}
	if !strings.Contains(s.log.String(), "a person has to say that the machine was replaced") {
		t.Error("the log does not say why")
	}
	if status, body := s.answer(operator, claim("new.object"), accepted("worker-1", uidB)); status != http.StatusNoContent {
		t.Errorf("a Node object that was made anew: %d %s", status, body)
	}
	replaced := accepted("worker-2", uidA)
	replaced.Replaced = true
	s.session(certificate, nodeToken+"2")
	if status, body := s.answer(operator, s.claims(operator)[0], replaced); status != http.StatusNoContent {
		t.Errorf("replaced: %d %s", status, body)
	}
	s.session(certificate, nodeToken+"3")
	if status, body := s.answer(operator, s.claims(operator)[0], accepted("worker-3", uidB)); status != http.StatusConflict || !strings.Contains(body, "bound to node worker-2") {
		t.Errorf("a second node for the same EK: %d %s", status, body)
	}
	s.holdsNoToken(viewer)
}

// An agent whose registration is gone holds no node, and one whose registration cannot be looked up does.
func TestClaimOfDeadAgentsNode(t *testing.T) {
	s := newSite(t)
	operator, stranger := s.as(mtls.Operator), s.client(mtlstest.SelfSigned(t))
	for holder, want := range map[attest.AgentID]int{"gone": http.StatusNoContent, "broken": http.StatusBadGateway, node1: http.StatusConflict} {
		if err := s.store.Bindings().Bind(t.Context(), verifier.Binding{Agent: holder, Node: api.KubernetesNode{Name: "worker-1", UID: uidA}}); err != nil {
			t.Fatal(err)
		}
		s.beat(stranger, api.Unproven{NodeToken: "token." + string(holder)}, "")
		claims := s.claims(operator)
		if status, body := s.answer(operator, claims[len(claims)-1], accepted("worker-1", uidA)); status != want {
			t.Errorf("node of %s: %d, want %d: %s", holder, status, want, body)
		}
		for _, claim := range s.claims(operator) {
			s.answer(operator, claim, api.ClaimAnswer{Reason: "end of the row"})
		}
	}
}

// A refusal reaches the agent with its reason, whatever it holds, until it may try again.
func TestClaimRefused(t *testing.T) {
	s := newSite(t)
	operator, certificate := s.as(mtls.Operator), mtlstest.SelfSigned(t)
	agent, stranger := s.client(certificate), s.client(mtlstest.SelfSigned(t))
	bearer := s.session(certificate, nodeToken)
	s.beat(stranger, api.Unproven{NodeToken: "other.token"}, "")
	claims := s.claims(operator)
	if len(claims) != 2 || claims[0].Agent != node1 || claims[1].Agent != "" {
		t.Fatalf("claims %+v, want the proven one first", claims)
	}
	for _, claim := range claims {
		if status, body := s.answer(operator, claim, api.ClaimAnswer{Reason: "the token is not of this cluster"}); status != http.StatusNoContent {
			t.Fatalf("refuse: %d %s", status, body)
		}
	}
	check := func(want int) {
		t.Helper()
		for who, try := range map[string]func() (int, []byte){
			"proven":   func() (int, []byte) { return s.beat(agent, api.Unproven{}, bearer) },
			"stranger": func() (int, []byte) { return s.beat(stranger, api.Unproven{NodeToken: "other.token"}, "") },
		} {
			if status, body := try(); status/100 != want/100 || want == http.StatusForbidden && !strings.Contains(string(body), "not of this cluster") {
				t.Errorf("%s: %d %s, want %d", who, status, body, want)
			}
		}
	}
	check(http.StatusForbidden)
	s.session(certificate, nodeToken) // the same token again is refused without asking
	if left := s.claims(operator); len(left) != 0 {
		t.Errorf("a refused token is claimed with again: %d", len(left))
	}
	if !strings.Contains(s.log.String(), "not of this cluster") {
		t.Error("the log does not say why")
	}
	later := time.Now().Add(identity.RefusalLifetime + time.Second)
	s.now.Store(&later)
	bearer = s.session(certificate, nodeToken+"2")
	check(http.StatusNoContent)
	s.holdsNoToken()
}

func TestClaimBadAnswers(t *testing.T) {
	s := newSite(t)
	operator, stranger := s.as(mtls.Operator), s.client(mtlstest.SelfSigned(t))
	s.beat(stranger, api.Unproven{NodeToken: nodeToken}, "")
	claim := s.claims(operator)[0]
	with := func(change func(*api.ClaimAnswer)) api.ClaimAnswer {
		a := accepted("worker-1", uidA)
		change(&a)
		return a
	}
	for name, tt := range map[string]struct {
		answer api.ClaimAnswer
		want   string
	}{
		"no node":          {with(func(a *api.ClaimAnswer) { a.Node = nil }), "node: is missing"},
		"no reason":        {api.ClaimAnswer{}, "reason: is empty"},
		"no end":           {with(func(a *api.ClaimAnswer) { a.Expires = time.Time{} }), "expires"},
		"an end that was":  {with(func(a *api.ClaimAnswer) { a.Expires = time.Now().Add(-time.Second) }), "expires"},
		"an end too late":  {with(func(a *api.ClaimAnswer) { a.Expires = time.Now().Add(identity.MaxAcceptedLifetime + time.Hour) }), "expires"},
		"a name of no use": {with(func(a *api.ClaimAnswer) { a.Node.Name = "../x" }), "node.name"},
	} {
		if status, body := s.answer(operator, claim, tt.answer); status != http.StatusBadRequest || !strings.Contains(body, tt.want) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	expired := time.Now().Add(identity.StrangerClaimLifetime + time.Second)
	s.now.Store(&expired)
	if status, _ := s.answer(operator, claim, with(func(a *api.ClaimAnswer) { a.Expires = expired.Add(time.Hour) })); status != http.StatusNotFound {
		t.Errorf("an expired claim: %d", status)
	}
	s.now.Store(nil)
	if status, body := s.answer(operator, claim, accepted("worker-1", uidA)); status != http.StatusNoContent {
		t.Errorf("without these faults: %d %s", status, body)
	}
}

// What an agent without a TPM gets with a join token: its row, and nothing else.
func TestJoinTokenWithoutTPM(t *testing.T) {
	s := newSite(t)
	agent, viewer := s.client(mtlstest.SelfSigned(t)), s.as(mtls.Viewer)
	credential := api.JoinToken{ID: "0a1b2c", Secret: []byte("0123456789abcdef")}.Credential()
	false1 := api.JoinToken{ID: "0a1b2c", Secret: []byte("0123456789abcdeX")}.Credential()
	spare := api.JoinToken{ID: "spare", Secret: []byte("0123456789abcdef")}.Credential()
	s.redeemed[credential], s.redeemed[spare] = "", ""
	hash := attest.EKHash([]byte("a key"))
	for name, tt := range map[string]struct {
		bearer string
		u      api.Unproven
		want   int
	}{
		"a false secret":                {false1, api.Unproven{Agent: "printer-1"}, 401},
		"no name":                       {credential, api.Unproven{}, 400},
		"a bad name":                    {credential, api.Unproven{Agent: "a/b"}, 400},
		"a node token beside it":        {credential, api.Unproven{Agent: "printer-1", NodeToken: nodeToken}, 400},
		"no token":                      {"", api.Unproven{Agent: "printer-1"}, 401},
		"a name beside a node token":    {"", api.Unproven{Agent: "printer-1", NodeToken: nodeToken}, 400},
		"a node token with spaces":      {"", api.Unproven{NodeToken: "a b"}, 400},
		"a long node token":             {"", api.Unproven{NodeToken: strings.Repeat("a", api.MaxNodeTokenBytes+1)}, 400},
		"a session's token that is not": {"00ff", api.Unproven{Agent: "printer-1"}, 400},
	} {
		if status, body := s.beat(agent, tt.u, tt.bearer); status != tt.want || strings.Contains(string(body), "0123456789abcde") {
			t.Errorf("%s: %d, want %d: %s", name, status, tt.want, body)
		}
	}
	if nodes := s.nodes(viewer); len(nodes) != 0 {
		t.Fatalf("refused heartbeats leave %+v", nodes)
	}
	if status, body := s.beat(agent, api.Unproven{Agent: "printer-1"}, credential); status != http.StatusNoContent {
		t.Fatalf("heartbeat: %d %s", status, body)
	}
	if status, _ := s.beat(agent, api.Unproven{Agent: "printer-2"}, credential); status != http.StatusUnauthorized {
		t.Errorf("another name under the same token: %d", status)
	}
	for _, id := range []attest.AgentID{node1, hash} {
		s.redeemed[spare] = ""
		if status, body := s.beat(agent, api.Unproven{Agent: id}, spare); status != http.StatusForbidden {
			t.Errorf("the name of an agent with a TPM, %s: %d %s", id, status, body)
		}
	}
	nodes := s.nodes(viewer)
	if len(nodes) != 1 || nodes[0].ID != "printer-1" || nodes[0].Verdict != attest.Unappraised || nodes[0].Reason != api.ReasonNoTpm || nodes[0].TpmPresent {
		t.Fatalf("nodes %+v", nodes)
	}
	bearer := map[string]string{"Authorization": "Bearer " + credential}
	for _, o := range api.Operations() {
		if o.Path == api.PathAgentHeartbeat || o.Path == api.PathAgentPreflight {
			continue
		}
		c := call{method: o.Method, path: operationPath(o.Path), header: bearer}
		got, _ := s.do(agent, c)
		c.header = nil
		if without, _ := s.do(agent, c); got != without {
			t.Errorf("%s %s: a join token changes %d to %d", o.Method, o.Path, without, got)
		}
	}
	var n api.Node
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/printer-1"}, &n)
	later := time.Now().Add(identity.PresenceLifetime + time.Minute)
	s.now.Store(&later)
	if nodes := s.nodes(viewer); len(nodes) != 0 {
		t.Errorf("a day after its last word it is still shown: %+v", nodes)
	}
	s.now.Store(nil)
	s.beat(agent, api.Unproven{Agent: "printer-1"}, credential)
	s.into(s.as(mtls.Administrator), call{method: "DELETE", path: api.PathNodes + "/printer-1"}, nil)
	if nodes := s.nodes(viewer); len(nodes) != 0 {
		t.Errorf("after its removal: %+v", nodes)
	}
}

// Agents without a TPM stand in the list in the order of ids, over pages; an enrolled agent hides one of its name.
func TestListWithUnproven(t *testing.T) {
	s := newSite(t)
	agent, viewer := s.client(mtlstest.SelfSigned(t)), s.as(mtls.Viewer)
	for _, id := range []attest.AgentID{"a", "node-0", "z"} {
		credential := api.JoinToken{ID: string(id), Secret: []byte("0123456789abcdef")}.Credential()
		s.redeemed[credential] = ""
		if status, body := s.beat(agent, api.Unproven{Agent: id}, credential); status != http.StatusNoContent {
			t.Fatalf("%s: %d %s", id, status, body)
		}
	}
	s.into(s.as(mtls.Administrator), call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}, nil)
	var seen []attest.AgentID
	cursor := ""
	for range 10 {
		var page api.Page[api.Node]
		s.into(viewer, call{method: "GET", path: api.PathNodes + "?limit=2&cursor=" + cursor}, &page)
		for _, n := range page.Items {
			seen = append(seen, n.ID)
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if diff := cmp.Diff([]attest.AgentID{"a", "node-0", "node-1", "z"}, seen); diff != "" {
		t.Error(diff)
	}
}
