package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/mtls/mtlstest"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/sqlstore/sqlstoretest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/boxtest"
	"github.com/assay-project/assay/verifier/identity"
	"github.com/assay-project/assay/verifier/machine"
)

const node1 = attest.AgentID("node-1")

// site is a served API with real TLS and the three CAs of C6.
type site struct {
	t         *testing.T
	url       string
	authority *mtls.Authority
	store     *sqlstore.DB
	verifier  *verifier.Verifier
	stop      context.CancelFunc // ends the verifier
	api       *API
	agents    map[attest.AgentID]verifier.Registered
	boxes     map[string]*boxtest.Box
	now       atomic.Pointer[time.Time] // nil for the system's
	log       lockedBuffer
	redeemed  map[string]attest.AgentID // by the text of a join token's credential
}

func (s *site) clock() time.Time {
	if now := s.now.Load(); now != nil {
		return *now
	}
	return time.Now()
}

// lockedBuffer is a log that a test reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// redeem does what the store of a server does with a token that is there.
func (s *site) redeem(_ context.Context, token string, secret []byte, agent attest.AgentID) error {
	credential := api.JoinToken{ID: token, Secret: secret}.Credential()
	holder, ok := s.redeemed[credential]
	if !ok || holder != "" && holder != agent {
		return fmt.Errorf("%w: join token %s is not valid", identity.ErrSession, token)
	}
	s.redeemed[credential] = agent
	return nil
}

// Agent implements Registrar.
func (s *site) Agent(_ context.Context, id attest.AgentID) (verifier.Registered, error) {
	switch r, ok := s.agents[id]; {
	case id == "broken":
		return verifier.Registered{}, fmt.Errorf("%w: connection refused", verifier.ErrRegistrar)
	case ok:
		return r, nil
	}
	return verifier.Registered{}, verifier.ErrNotFound
}

// Agents implements Registrar.
func (s *site) Agents(context.Context) ([]attest.AgentID, error) {
	return []attest.AgentID{node1}, nil
}

// Pending implements PendingRegistrations.
func (s *site) Pending(context.Context) ([]api.Pending, error) {
	return []api.Pending{{Agent: "waiting", Reason: "a new AK"}}, nil
}

// Approve implements PendingRegistrations.
func (s *site) Approve(_ context.Context, id attest.AgentID) error {
	if id != "waiting" {
		return verifier.ErrNotFound
	}
	return nil
}

// Collect implements Collector.
func (s *site) Collect(_ context.Context, to verifier.Enrolment, r machine.Request) (verifier.Collected, error) {
	if b := s.boxes[to.Address]; b != nil {
		return verifier.Collected{Answer: machine.Answer(b.Answer(boxtest.Ask(r), nil))}, nil
	}
	return verifier.Collected{}, errors.New("connection refused")
}

// registered is what a registrar has of a box.
func registered(b *boxtest.Box) verifier.Registered {
	return verifier.Registered{ID: node1, AK: b.Signer.Public(), EK: boxtest.EKPublic(), Address: string(node1), Port: 9002}
}

func newSite(t *testing.T) *site {
	t.Helper()
	authority, err := mtls.Create(filepath.Join(t.TempDir(), "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := mtls.NewClients(authority.ClientCAs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := boxtest.New(t)
	s := &site{t: t, authority: authority, store: sqlstoretest.Open(t), redeemed: map[string]attest.AgentID{}, boxes: map[string]*boxtest.Box{"node-1": b}}
	s.agents = map[attest.AgentID]verifier.Registered{node1: registered(b)}
	s.verifier, err = verifier.New(verifier.Config{Store: s.store.Nodes(), Evidence: s.store.Nodes(), Policies: s.store.Policies(), Reactions: s.store.Reactions(), Collector: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.verifier.Run(ctx) }()
	s.stop = stop
	for _, err := s.verifier.Show("nobody"); !errors.Is(err, verifier.ErrNotFound); _, err = s.verifier.Show("nobody") {
		time.Sleep(time.Millisecond) // its nodes are being loaded
	}
	s.api = New(Config{
		Verifier: s.verifier, Evidence: s.store.Nodes(), Policies: s.store.Policies(), Roots: s.store.Roots(), Tokens: s.store.Tokens(), Registrar: s, Pending: s,
		Bindings: s.store.Bindings(), Keys: s.store.Roots(),
		Redeem: s.redeem, Now: s.clock, Log: slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Issue: func(context.Context, api.CertificateRequest) (api.Certificate, error) {
			return api.Certificate{Certificate: "PEM"}, nil
		},
		Clients: clients, Pin: authority.Pin, Bootstrap: func() api.Bootstrap { return api.Bootstrap{RegistrarPort: 8891} }, AllowFirstUse: true, Version: "test",
	})
	server := httptest.NewUnstartedServer(s.api)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	mtlstest.StartTLS(t, server, s.issue(mtls.Request{Role: mtls.Server, Name: "server", Hosts: []string{"127.0.0.1"}}))
	s.url = server.URL
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		server.CloseClientConnections()
		server.Close()
	})
	return s
}

func (s *site) issue(r mtls.Request) mtls.Source {
	s.t.Helper()
	issued, err := s.authority.Issue(r)
	if err != nil {
		s.t.Fatal(err)
	}
	certificate, err := issued.TLS()
	if err != nil {
		s.t.Fatal(err)
	}
	return mtls.Fixed(certificate)
}

// client presents a certificate, or none.
func (s *site) client(certificate mtls.Source) *http.Client {
	s.t.Helper()
	config, err := mtls.Peer{Host: "127.0.0.1", Certificate: certificate}.TrustCA(s.authority.ServerCAs())
	if err != nil {
		s.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func (s *site) as(role mtls.Role) *http.Client {
	return s.client(s.issue(mtls.Request{Role: role, Name: "some " + string(role)}))
}

// pretender made a certificate by itself that says that it is an administrator.
func pretender(t *testing.T) mtls.Source {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "admin"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "assay", Opaque: "role:administrator"}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return mtls.Fixed(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
}

// call is one request.
type call struct {
	method, path, body, kind string
	header                   map[string]string
}

// do sends a call and returns status and body.
func (s *site) do(client *http.Client, c call) (int, []byte) {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), c.method, s.url+c.path, strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	if c.kind == "" {
		c.kind = "application/json"
	}
	request.Header.Set("Content-Type", c.kind)
	for name, value := range c.header {
		request.Header.Set(name, value)
	}
	answer, err := client.Do(request)
	if err != nil {
		s.t.Fatalf("%s %s: %v", c.method, c.path, err)
	}
	defer answer.Body.Close()
	if answer.Header.Get("Content-Type") == "text/event-stream" {
		return answer.StatusCode, nil
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if answer.StatusCode >= 400 {
		var p api.Problem
		if err := json.Unmarshal(text, &p); err != nil || p.Status != answer.StatusCode || p.Detail == "" {
			s.t.Errorf("%s %s: %d is no Problem: %q", c.method, c.path, answer.StatusCode, text)
		}
	}
	return answer.StatusCode, text
}

// into sends a call that succeeds with the status that the OpenAPI document promises, and reads its answer.
func (s *site) into(client *http.Client, c call, answer any) {
	s.t.Helper()
	status, text := s.do(client, c)
	want := 0
	for _, o := range api.Operations() {
		if o.Method == c.method && matches(o.Path, c.path) {
			want = o.Status
		}
	}
	if status != want {
		s.t.Fatalf("%s %s: %d, the document promises %d: %s", c.method, c.path, status, want, text)
	}
	if answer == nil {
		return
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(answer); err != nil {
		s.t.Fatalf("%s %s: %v: %s", c.method, c.path, err, text)
	}
}

func matches(pattern, path string) bool {
	path, _, _ = strings.Cut(path, "?")
	want, have := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, have, func(w, h string) bool { return strings.HasPrefix(w, "{") || w == h })
}

// The life of a node over the API, from its policy to its removal.
func TestNodeOverTheAPI(t *testing.T) {
	s := newSite(t)
	admin, viewer := s.as(mtls.Administrator), s.as(mtls.Viewer)
	var p api.Policy
	doc := boxtest.Document(t, "base", "/usr/bin/a")
	s.into(admin, call{method: "POST", path: api.PathPolicies, body: string(doc.Bytes()), kind: "application/octet-stream"}, &p)
	if p.Digest != doc.Digest() || p.Name != "base" || p.Size != int64(len(doc.Bytes())) {
		t.Errorf("added %+v", p)
	}
	if status, text := s.do(viewer, call{method: "GET", path: api.PathPolicies + "/base"}); status != 200 || string(text) != string(doc.Bytes()) {
		t.Errorf("document: %d %s", status, text)
	}
	events := s.watchAs(viewer)

	var n api.Node
	s.into(admin, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true,"policies":["base"],"interval":1}`}, &n)
	if n.Verdict != attest.Pending || !n.FirstUse || n.Interval != 1 {
		t.Errorf("enrolled %+v", n)
	}
	for _, want := range []attest.Verdict{attest.Pending, attest.Trusted} {
		if got := <-events; got.To != want || got.Node != node1 {
			t.Fatalf("watched %+v, want %s", got, want)
		}
	}
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/node-1"}, &n)
	if n.Verdict != attest.Trusted || n.Position != 3 || len(n.Appraised) != 1 || n.KeylimeState != 3 {
		t.Errorf("node %+v", n)
	}
	var evidence api.Evidence
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/node-1/evidence"}, &evidence)
	if evidence.List != strings.Join(s.boxes["node-1"].List, "") || len(evidence.BootLog) == 0 || evidence.Quote == "" {
		t.Errorf("evidence of %d bytes", len(evidence.List))
	}
	s.into(admin, call{method: "POST", path: api.PathNodes + "/node-1/pause"}, &n)
	if n.Verdict != attest.Paused {
		t.Errorf("paused: %s", n.Verdict)
	}
	s.into(admin, call{method: "POST", path: api.PathNodes + "/node-1/resume"}, &n)
	s.into(admin, call{method: "PATCH", path: api.PathNodes + "/node-1", body: `{"policies":[],"interval":2}`}, &n)
	if n.Verdict != attest.Unappraised || n.Interval != 2 || len(n.Assigned) != 0 {
		t.Errorf("changed %+v", n)
	}
	var nodes api.Page[api.Node]
	s.into(viewer, call{method: "GET", path: api.PathNodes + "?limit=1"}, &nodes)
	if len(nodes.Items) != 1 || nodes.Next != "node-1" {
		t.Errorf("page %+v", nodes)
	}
	var results api.Page[api.Transition]
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/node-1/results?limit=2&cursor=1"}, &results)
	if len(results.Items) != 2 || results.Items[0].Seq != 2 || results.Next != "3" {
		t.Errorf("results %+v", results)
	}
	var failures api.Page[attest.Failure]
	s.into(viewer, call{method: "GET", path: api.PathNodes + "/node-1/failures"}, &failures)
	s.into(admin, call{method: "DELETE", path: api.PathPolicies + "/" + p.Digest.String()}, nil)
	s.into(admin, call{method: "DELETE", path: api.PathNodes + "/node-1"}, nil)
	if status, _ := s.do(viewer, call{method: "GET", path: api.PathNodes + "/node-1"}); status != 404 {
		t.Errorf("after the removal: %d", status)
	}
}

// watchAs reads the events of PathWatch.
func (s *site) watchAs(client *http.Client) <-chan api.Transition {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url+api.PathWatch, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil || answer.Header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("watch: %v", err)
	}
	events := make(chan api.Transition, 100)
	go func() {
		defer answer.Body.Close()
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			var t api.Transition
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && json.Unmarshal([]byte(data), &t) == nil {
				events <- t
			}
		}
	}()
	return events
}

func TestDocumentsOverTheAPI(t *testing.T) {
	s := newSite(t)
	admin := s.as(mtls.Administrator)
	var server api.Server
	s.into(admin, call{method: "GET", path: api.PathServer}, &server)
	if server.Role != "administrator" || server.Name != "some administrator" || server.Version != "test" {
		t.Errorf("server %+v", server)
	}
	var added api.RootsAdded
	s.into(admin, call{method: "POST", path: api.PathEndorsements, body: string(s.authority.ServerCAs()), kind: "application/octet-stream"}, &added)
	var roots api.Page[api.Root]
	s.into(admin, call{method: "GET", path: api.PathEndorsements}, &roots)
	if len(added.Added) != 1 || len(roots.Items) != 1 || roots.Items[0].Fingerprint != added.Added[0].Fingerprint {
		t.Errorf("roots %+v, added %+v", roots, added)
	}
	s.into(admin, call{method: "DELETE", path: api.PathEndorsements + "/" + added.Added[0].Fingerprint.String()}, nil)
	var check api.EndorsementCheck
	s.into(admin, call{method: "GET", path: api.PathEndorsements + "/check/node-1"}, &check)
	if check.Endorsed || len(check.Failures) == 0 {
		t.Errorf("check %+v", check)
	}
	s.tokens(admin)
	var certificate api.Certificate
	s.into(admin, call{method: "POST", path: api.PathCertificates, body: `{"role":"viewer","name":"v","request":"PEM"}`}, &certificate)
	var registered api.Page[api.Registered]
	s.into(admin, call{method: "GET", path: api.PathRegistered}, &registered)
	var pending api.Page[api.Pending]
	s.into(admin, call{method: "GET", path: api.PathPending}, &pending)
	s.into(admin, call{method: "POST", path: api.PathPending + "/waiting/approve"}, nil)
	if len(registered.Items) != 1 || registered.Items[0].Enrolled || len(pending.Items) != 1 || certificate.Certificate != "PEM" {
		t.Errorf("registered %+v, pending %+v", registered, pending)
	}
	var policies api.Page[api.Policy]
	for _, name := range []string{"a", "b", "c"} {
		s.into(admin, call{method: "POST", path: api.PathPolicies, body: string(boxtest.Document(t, name).Bytes()), kind: "application/octet-stream"}, nil)
	}
	s.into(admin, call{method: "GET", path: api.PathPolicies + "?limit=2"}, &policies)
	s.into(admin, call{method: "GET", path: api.PathPolicies + "?limit=2&cursor=" + policies.Next}, &policies)
	if len(policies.Items) != 1 || policies.Items[0].Name != "c" {
		t.Errorf("second page %+v", policies)
	}
}

// tokens makes, lists and revokes a join token, whose secret is stored nowhere.
func (s *site) tokens(admin *http.Client) {
	s.t.Helper()
	var token api.TokenCreated
	s.into(admin, call{method: "POST", path: api.PathTokens, body: `{"lifetime":60}`}, &token)
	parsed, err := api.ParseJoinToken(token.Text)
	if err != nil || parsed.ID != token.ID || parsed.Pin != s.authority.Pin() {
		s.t.Fatalf("token %+v, %v", parsed, err)
	}
	stored, err := s.store.Tokens().Tokens(s.t.Context())
	if err != nil || len(stored) != 1 || stored[0].SecretDigest != attest.SHA256.Sum(parsed.Secret) {
		s.t.Errorf("stored %+v, %v", stored, err)
	}
	var all api.Page[api.Token]
	s.into(admin, call{method: "GET", path: api.PathTokens}, &all)
	if len(all.Items) != 1 {
		s.t.Errorf("tokens %+v", all)
	}
	s.into(admin, call{method: "DELETE", path: api.PathTokens + "/" + token.ID}, nil)
}

// An agent with a self-signed certificate proves its AK; what it reports is shown with its node and opens nothing else.
func TestAgentOverTheAPI(t *testing.T) {
	s := newSite(t)
	certificate := mtlstest.SelfSigned(t)
	agent, stranger, admin := s.client(certificate), s.client(mtlstest.SelfSigned(t)), s.as(mtls.Administrator)
	leaf, err := certificate()
	if err != nil {
		t.Fatal(err)
	}
	var bootstrap api.Bootstrap
	s.into(s.client(nil), call{method: "GET", path: api.PathAgentBootstrap}, &bootstrap)
	if bootstrap.RegistrarPort != 8891 {
		t.Errorf("bootstrap %+v", bootstrap)
	}
	var challenge api.SessionChallenge
	s.into(agent, call{method: "POST", path: api.PathAgentSessions, body: `{"agent":"node-1"}`}, &challenge)
	proof, err := json.Marshal(boxtest.Prove(s.boxes["node-1"].Signer, challenge.Challenge, mtls.KeyDigest(leaf.Leaf)))
	if err != nil {
		t.Fatal(err)
	}
	put := call{method: "PUT", path: api.PathAgentSessions + "/" + challenge.Session, body: string(proof)}
	var token api.SessionToken
	s.into(agent, put, &token)
	if status, _ := s.do(agent, put); status != http.StatusUnauthorized {
		t.Errorf("the same proof again: %d", status)
	}
	bearer := map[string]string{"Authorization": "Bearer " + token.Token}
	beat := call{method: "POST", path: api.PathAgentHeartbeat, body: `{"version":"1","kernel":"6.1","uptime":5}`, header: bearer}
	s.into(agent, beat, nil)
	s.into(agent, call{method: "POST", path: api.PathAgentPreflight, body: `{"checks":[{"name":"tpm","status":"ok","detail":""}]}`, header: bearer}, nil)
	for name, tt := range map[string]struct {
		client *http.Client
		call   call
		want   int
	}{
		"another TLS key":    {stranger, beat, 401},
		"no certificate":     {s.client(nil), beat, 401},
		"no token":           {agent, call{method: "POST", path: api.PathAgentHeartbeat, body: beat.body}, 401},
		"a false token":      {agent, call{method: "POST", path: api.PathAgentHeartbeat, body: beat.body, header: map[string]string{"Authorization": "Bearer x"}}, 401},
		"an oversized beat":  {agent, call{method: "POST", path: api.PathAgentHeartbeat, body: `{"version":"` + strings.Repeat("x", maxReportBytes) + `"}`, header: bearer}, 413},
		"too many checks":    {agent, call{method: "POST", path: api.PathAgentPreflight, body: `{"checks":[` + strings.Repeat(`{},`, 64) + `{}]}`, header: bearer}, 400},
		"reading with it":    {agent, call{method: "GET", path: api.PathNodes, header: bearer}, 401},
		"a session without":  {s.client(nil), call{method: "POST", path: api.PathAgentSessions, body: `{"agent":"node-1"}`}, 401},
		"a session by no id": {agent, call{method: "POST", path: api.PathAgentSessions, body: `{"agent":"../x"}`}, 400},
	} {
		if status, text := s.do(tt.client, tt.call); status != tt.want {
			t.Errorf("%s: %d, want %d: %s", name, status, tt.want, text)
		}
	}
	s.into(admin, call{method: "POST", path: api.PathNodes, body: `{"id":"node-1","firstUse":true}`}, nil)
	var n api.Node
	s.into(admin, call{method: "GET", path: api.PathNodes + "/node-1"}, &n)
	if n.Heartbeat == nil || n.Heartbeat.Heartbeat.Kernel != "6.1" || len(n.Heartbeat.Preflight) != 1 {
		t.Errorf("heartbeat %+v", n.Heartbeat)
	}
}
