package registrar_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/wire"
)

// captured returns an exchange between Keylime's programs.
func captured(t *testing.T, name string) (e struct {
	Name, Method, Path, Request, Response string
	Status                                int
}) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "wire", "testdata", "registrar.json"))
	if err != nil {
		t.Fatal(err)
	}
	all := []struct {
		Name, Method, Path, Request, Response string
		Status                                int
	}{}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, e = range all {
		if e.Name == name {
			return e
		}
	}
	t.Fatalf("no exchange %q", name)
	return e
}

// What Keylime's Rust agents send is taken, and what is refused is refused in the reference's words.
func TestCapturedRequests(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"register rsa", "register ecc", "register iak", "register push", "register swtpm"} {
		e := captured(t, name)
		a := w.call("", e.Method, e.Path, e.Request)
		w.want(a, 200, "Success")
		var ours, theirs wire.Envelope[wire.RegisterResults]
		if err := errors.Join(json.Unmarshal([]byte(a.body), &ours), json.Unmarshal([]byte(e.Response), &theirs)); err != nil {
			t.Fatal(err)
		}
		if len(ours.Results.Blob) != len(theirs.Results.Blob) {
			t.Errorf("%s: blob of %d bytes, Keylime's has %d", name, len(ours.Results.Blob), len(theirs.Results.Blob))
		}
	}
	list, unknown := captured(t, "list"), captured(t, "show unknown")
	w.store.records = map[attest.AgentID]registrar.Record{"c0ffee00-1111-4222-8333-444455556666": {ID: "c0ffee00-1111-4222-8333-444455556666", Active: &registrar.Registration{}}}
	for _, e := range []struct {
		as             role
		path, response string
		code           int
	}{
		{mtls.Viewer, list.Path, list.Response, 200},
		{mtls.Viewer, unknown.Path, unknown.Response, 404},
		{"", captured(t, "show anonymous").Path, captured(t, "show anonymous").Response, 403},
	} {
		a := w.call(e.as, "GET", e.path, nil)
		var got, want any
		if err := errors.Join(json.Unmarshal([]byte(a.body), &got), json.Unmarshal([]byte(e.response), &want)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" || a.code != e.code {
			t.Errorf("%s: %d %s", e.path, a.code, diff)
		}
	}
}

func TestVersion(t *testing.T) {
	w := newWorld(t)
	for name, h := range map[string]http.Handler{"tls": w.tls, "plain": w.plain} {
		a := w.send(h, httptest.NewRequest("GET", "/version", nil))
		want := `{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.1","2.2","2.3","2.4","2.5","2.6"]}}`
		if a.code != 200 || a.body != want {
			t.Errorf("%s: got %d %s", name, a.code, a.body)
		}
	}
}

func TestRoutes(t *testing.T) {
	w := newWorld(t)
	tests := []struct {
		method, path string
		tls, plain   int // statuses for a viewer
		text         string
	}{
		{"GET", "/v2.6/agents", 200, 400, ""},
		{"GET", "/v2/agents", 200, 400, ""},
		{"GET", "//v2.6//agents//", 200, 400, ""},
		{"GET", "/v2.6/agents/a", 404, 400, ""},
		{"DELETE", "/v2.6/agents/a", 403, 400, ""},
		{"POST", "/v2.6/agents", 400, 400, ""},
		{"POST", "/v2.6/agents/a", 400, 400, ""},
		{"PUT", "/v2.6/agents/a", 400, 400, ""},
		{"PUT", "/v2.6/agents/a/activate", 400, 400, ""},
		{"POST", "/v2.6/agents/a/activate", 400, 400, ""},
		{"GET", "/v2.6/agents/a/activate", 405, 405, ""},
		{"PATCH", "/v2.6/agents/a", 405, 405, ""},
		{"PUT", "/v2.6/agents", 405, 405, ""},
		{"POST", "/version", 405, 405, ""},
		{"GET", "/", 404, 404, ""},
		{"GET", "/versions", 404, 404, ""},
		{"GET", "/v", 404, 404, ""},
		{"GET", "/version/x", 404, 404, ""},
		{"GET", "/v2.6/version", 404, 404, ""},
		{"GET", "/v2.6", 404, 404, ""},
		{"GET", "/v2.6/agents/a/b", 404, 404, ""},
		{"GET", "/v2.6/agents/a/activate/c", 404, 404, ""},
		{"GET", "/agents", 404, 404, ""},
		{"GET", "/v9.9/agents", 400, 400, "API version not supported: v9.9"},
		{"POST", "/v3.0/agents", 400, 400, "API version not supported: v3.0"},
		{"GET", "/v1.0/agents", 400, 400, "API version not supported: v1.0"},
	}
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			w.t = t
			r := httptest.NewRequest(tt.method, "http://h"+tt.path, nil)
			r.TLS = &tls.ConnectionState{ServerName: string(mtls.Viewer)}
			a := w.send(w.tls, r)
			w.want(a, tt.tls, tt.text)
			if a.code == 405 && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
			w.want(w.send(w.plain, r), tt.plain, tt.text)
		})
	}
}

func TestRoles(t *testing.T) {
	w := newWorld(t)
	w.store.records["a"] = registrar.Record{ID: "a", Active: &registrar.Registration{}}
	got := map[role][3]int{}
	for _, who := range append(mtls.ClientRoles(), mtls.Agent, mtls.Server, "") {
		got[who] = [3]int{
			w.call(who, "GET", "/v2.6/agents", nil).code,
			w.call(who, "GET", "/v2.6/agents/a", nil).code,
			w.call(who, "DELETE", "/v2.6/agents/zz", nil).code,
		}
	}
	want := map[role][3]int{
		mtls.Administrator: {200, 200, 404}, mtls.Operator: {200, 200, 404}, mtls.VerifierClient: {200, 200, 403}, mtls.Viewer: {200, 200, 403},
		mtls.PolicyAuthor: {403, 403, 403}, mtls.Agent: {403, 403, 403}, mtls.Server: {403, 403, 403}, "": {403, 403, 403},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	w.want(w.call(mtls.Viewer, "DELETE", "/v2.6/agents/a", nil), 403, `Action delete_registration needs one of the roles [administrator operator]; the certificate of "alice" has the role viewer`)
}

// A stranger's path is cut in the log: tens of kilobytes a call would fill the disk at any rate.
func TestLongPathsAreCutInTheLog(t *testing.T) {
	w := newWorld(t)
	w.want(w.call("", "PUT", "/v2.6/agents/"+strings.Repeat("a", 30<<10), wire.ActivateRequest{AuthTag: "00"}), 400, "more than 80")
	if n := w.log.Len(); n == 0 || n > 1000 {
		t.Errorf("%d bytes in the log", n)
	}
	w.want(w.call("", "PUT", "/v2.6/agents/nobody", wire.ActivateRequest{AuthTag: "00"}), 404, "not found")
	if !strings.Contains(w.log.String(), "path=/v2.6/agents/nobody") {
		t.Errorf("the log does not name the path:\n%s", w.log.String())
	}
}

func TestBearerIsRefused(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/version", "/v2.6/agents", "/v2.6/agents/a"} {
		r := httptest.NewRequest("GET", path, nil)
		r.TLS = &tls.ConnectionState{ServerName: string(mtls.Administrator)}
		r.Header.Set("Authorization", "Bearer x.y")
		w.want(w.send(w.tls, r), 401, "Invalid authentication token")
		w.want(w.send(w.plain, r), 401, "Invalid authentication token")
	}
}

func TestRequestIDIsEchoed(t *testing.T) {
	w := newWorld(t)
	r := httptest.NewRequest("GET", "/nowhere", nil)
	r.Header.Set("X-Request-ID", "ab c\x00d-1")
	if got := w.send(w.plain, r).header["X-Request-Id"]; !cmp.Equal(got, []string{"abcd1"}) {
		t.Errorf("got %q", got)
	}
	if got := w.send(w.plain, httptest.NewRequest("GET", "/version", nil)).header["X-Request-Id"]; !cmp.Equal(got, []string{""}) {
		t.Errorf("without one: got %q", got)
	}
}

// Each bad input gets a clear text, and the same request without its one fault is taken.
func TestBadRegistrations(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) { c.PerAgent = registrar.Rate{PerSecond: 1, Burst: 100} })
	tpm := newTPM(t, 0)
	w.vendor.endorse(tpm, 1)
	id := string(tpm.id())
	members := func() map[string]any {
		text, err := json.Marshal(tpm.request())
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		m["from_the_future"] = nil
		return m
	}
	with := func(name string, value any) string {
		m := members()
		m[name] = value
		if value == nil {
			delete(m, name)
		}
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	good := with("x", nil)
	other := newTPM(t, 1)
	tests := []struct {
		name, path, body string
		code             int
		detail           string
	}{
		{"empty", id, "", 400, "malformed JSON: ends at offset 0"},
		{"no JSON", id, "ek_tpm=AA", 400, "malformed JSON: offset 0"},
		{"cut", id, good[:100], 400, "malformed JSON: offset"},
		{"trailing bytes", id, good + "{}", 400, "bytes after the value"},
		{"duplicate key", id, `{"aik_tpm":"",` + good[1:], 400, `duplicate key "aik_tpm"`},
		{"array", id, "[]", 400, "malformed JSON: cannot unmarshal array"},
		{"too large", id, `{"x":"` + strings.Repeat("a", 129<<10) + `"}`, 413, "too large"},
		{"id with a space", "a%20b", good, 400, `byte 1 is ' '`},
		{"id too long", strings.Repeat("a", 81), good, 400, "81 bytes, more than 80"},
		{"no id at all", "", good, 400, "agent_id: agent id is empty"},
		{"no EK", id, with("ek_tpm", nil), 400, "ek_tpm: missing"},
		{"EK no base64", id, with("ek_tpm", "zz"), 400, "ek_tpm: cannot read text"},
		{"EK no TPM2B", id, with("ek_tpm", "AAAA"), 400, "ek_tpm: endorsement key: parse TPM2B_PUBLIC"},
		{"EK is an AK", id, with("ek_tpm", tpm.ak.Public()), 400, "ek_tpm: endorsement key: not a restricted decryption key"},
		{"EK with trailing bytes", id, with("ek_tpm", append(tpm.ekPublic(), 0)), 400, "size field says"},
		{"no AK", id, with("aik_tpm", nil), 400, "aik_tpm: missing"},
		{"AK is an EK", id, with("aik_tpm", tpm.ekPublic()), 400, "aik_tpm: attestation key: decrypt is set"},
		{"software AK", id, with("aik_tpm", softwareAKOf(tpm)), 400, "aik_tpm: attestation key: fixedTPM is not set"},
		{"both keys missing", id, `{}`, 400, "ek_tpm: missing; an endorsement key is required; aik_tpm: missing"},
		{"certificate of another EK", id, with("ekcert", certificateOf(w, other)), 400, "ekcert: certifies the key " + string(other.id())},
		{"certificate no PEM", id, with("ekcert", "-----BEGIN CERTIFICATE-----"), 400, "ekcert: cannot read PEM block 1"},
		{"address with control characters", id, with("ip", "1.2.3.4\x1b[2J"), 400, `ip: "1.2.3.4\x1b[2J" holds`},
		{"address of 254 bytes", id, with("ip", strings.Repeat("a", 254)), 400, "ip: 254 bytes, more than 253"},
		{"port", id, with("port", 65536), 400, "port: 65536 is not 0 to 65535"},
		{"negative port", id, with("port", -1), 400, "port: -1"},
		{"huge port", id, strings.Replace(good, `"port":9002`, `"port":1e99`, 1), 400, "port: cannot read number"},
		{"agent certificate", id, with("mtls_cert", "enabled"), 400, `mtls_cert: neither one PEM certificate nor "disabled"`},
		{"two agent certificates", id, with("mtls_cert", tpm.chain+tpm.chain), 400, "mtls_cert: neither one PEM certificate"},
		{"agent certificate no DER", id, with("mtls_cert", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), 400, "mtls_cert: x509"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w.t = t
			w.now = w.now.Add(time.Minute)
			w.want(w.call("", "POST", "/v2.6/agents/"+tt.path, tt.body), tt.code, tt.detail)
			if len(w.store.records) != 0 {
				t.Errorf("stored: %v", w.store.records)
			}
		})
	}
	w.t = t
	w.want(w.call("", "POST", "/v2.6/agents/"+id, good), 200, "Success")
	w.want(w.call("", "POST", "/v2.6/agents/"+id, with("ip", strings.Repeat("a", 253))), 200, "Success")
	w.want(w.call("", "POST", "/v2.6/agents", with("agent_id", id)), 200, "Success")
	w.want(w.call("", "POST", "/v2.6/agents/"+id, with("agent_id", "overridden by the path")), 200, "Success")
	if len(w.store.records) != 1 {
		t.Errorf("stored: %v", w.store.records)
	}
	r := httptest.NewRequest("POST", "/v2.6/agents/"+id, strings.NewReader(good))
	w.want(w.send(w.tls, r), 400, `Content-Type is "", not application/json`)
}

// softwareAKOf is the machine's AK without the attributes that say where it was made: what swapping the AK for a key in a file looks like.
func softwareAKOf(tpm *softTPM) []byte {
	public := tpm.ak.Public()
	public[9] &^= 0x32 // fixedTPM, fixedParent and sensitiveDataOrigin, in the last byte of the attributes behind size, type and name algorithm
	return public
}

func certificateOf(w *world, tpm *softTPM) string {
	w.vendor.endorse(tpm, 9)
	return tpm.chain
}

func TestBadActivations(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	id := tpm.id()
	path := "/v2.6/agents/" + string(id)
	_, blob := w.register(id, tpm.request())
	for body, detail := range map[string]string{
		"":                                "malformed JSON",
		`{}`:                              "auth_tag: missing",
		`{"auth_tag":""}`:                 "auth_tag: missing",
		`{"auth_tag":1}`:                  "auth_tag: cannot read number",
		`{"auth_tag":"a","auth_tag":"b"}`: "duplicate key",
		`{"auth_tag":"` + strings.Repeat("a", 1) + `"`: "malformed JSON",
	} {
		w.want(w.call("", "PUT", path, body), 400, detail)
	}
	w.want(w.call("", "PUT", "/v2.6/agents/nobody", wire.ActivateRequest{AuthTag: "00"}), 404, "Agent with ID 'nobody' not found")
	w.want(w.call("", "PUT", "/v2.6/agents/-x", wire.ActivateRequest{AuthTag: "00"}), 400, "agent id")
	// None of them was an attempt.
	w.want(w.call("", "PUT", path, wire.ActivateRequest{AuthTag: tpm.proof(blob, id)}), 200, "Success")
}

func TestRateLimits(t *testing.T) {
	w := newWorld(t, func(c *registrar.Config) {
		c.PerAddress = registrar.Rate{PerSecond: 1, Burst: 4}
		c.PerAgent = registrar.Rate{PerSecond: 0.1, Burst: 2}
	})
	call := func(address, agent string) answer {
		r := httptest.NewRequest("PUT", "/v2.6/agents/"+agent, strings.NewReader(`{"auth_tag":"00"}`))
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = address
		return w.send(w.plain, r)
	}
	w.want(call("192.0.2.1:1", "a"), 404, "not found")
	w.want(call("192.0.2.1:2", "a"), 404, "not found")
	a := call("192.0.2.1:3", "a")
	w.want(a, 429, "Too many requests; try again in 10 seconds")
	if got := a.header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After is %q", got)
	}
	w.want(call("192.0.2.2:1", "a"), 404, "not found") // nobody uses up another's
	w.want(call("192.0.2.1:1", "b"), 404, "not found")
	w.want(call("192.0.2.1:1", "c"), 404, "not found")
	w.want(call("192.0.2.1:1", "d"), 429, "try again in 1 seconds")
	w.now = w.now.Add(time.Second)
	w.want(call("192.0.2.1:1", "d"), 404, "not found")
	// A /64 is one caller, and IPv4 in IPv6 is the IPv4 address.
	for i := range 4 {
		w.want(call(fmt.Sprintf("[2001:db8::%d%%eth0]:1", i), fmt.Sprint(i)), 404, "not found")
	}
	w.want(call("[2001:db8::ffff]:1", "x"), 429, "Too many")
	w.want(call("[2001:db8:0:1::1]:1", "x"), 404, "not found")
	w.want(call("[::ffff:192.0.2.1]:1", "e"), 429, "Too many")
	// Administrators are not slowed down.
	for range 10 {
		w.want(w.call(mtls.Viewer, "GET", "/v2.6/agents", nil), 200, "Success")
	}
}

func TestTroubleOfOurOwn(t *testing.T) {
	tpm := newTPM(t, 0)
	for name, set := range map[string]func(*registrar.Config){
		"roots": func(c *registrar.Config) {
			c.Roots = func(context.Context) (*endorsement.Roots, error) { return nil, errBroken }
		},
		"random": func(c *registrar.Config) { c.Rand = strings.NewReader("") },
	} {
		w := newWorld(t, set)
		a, _ := w.register(tpm.id(), tpm.request())
		w.want(a, 500, "its log says why")
		if len(w.store.records) != 0 || w.log.Len() == 0 {
			t.Errorf("%s: stored %v, log %q", name, w.store.records, &w.log)
		}
	}
	w := newWorld(t)
	w.tokens.broken = true
	request := tpm.request()
	request.JoinToken = joinToken(1)
	a, _ := w.register("node-1", request)
	w.want(a, 500, "its log says why")
	if strings.Contains(w.log.String(), "AQEBAQ") {
		t.Error("the log holds the token's secret")
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	tpm := newTPM(t, 0)
	w.join(tpm.id(), tpm)
	w.call("", "PUT", "/v2.6/agents/x", wire.ActivateRequest{AuthTag: "00"})
	families, err := w.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := family.GetName()
			for _, label := range m.GetLabel() {
				name += " " + label.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"assay_registrar_requests_total activate_agent 2xx": 1, "assay_registrar_requests_total activate_agent 4xx": 1,
		"assay_registrar_requests_total register_agent 2xx": 1,
		"assay_registrar_records unproven":                  0, "assay_registrar_records waiting": 0, "assay_registrar_records unendorsed": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfig(t *testing.T) {
	_, err := registrar.New(registrar.Config{MaxUnproven: -1, MaxWaiting: -2, ApprovalLifetime: -1, PerAgent: registrar.Rate{PerSecond: 1, Burst: 1}})
	if err == nil {
		t.Fatal("an empty configuration was taken")
	}
	for _, mistake := range []string{"Store is not set", "Roots is not set", "Role is not set", "MaxUnproven is -1", "MaxWaiting is -2", "ApprovalLifetime is -1ns", "PerAgent is {PerSecond:1 Burst:1}"} {
		if !strings.Contains(err.Error(), mistake) {
			t.Errorf("%v does not say %q", err, mistake)
		}
	}
}

// Over a real connection with real certificates: an agent gets in without one, and no certificate but a client's opens what is administrators'.
func TestOverTLS(t *testing.T) {
	authority, err := mtls.Create(filepath.Join(t.TempDir(), "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	clients, err := mtls.NewClients(authority.ClientCAs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *registrar.Config) { c.Role = clients.RoleOf })
	issue := func(r mtls.Request) *tls.Certificate {
		issued, err := authority.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := issued.TLS()
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	server := httptest.NewUnstartedServer(w.tls)
	certificate := issue(mtls.Request{Role: mtls.Server, Name: "registrar", Hosts: []string{"127.0.0.1"}})
	server.Listener = tls.NewListener(server.Listener, mtls.ServerConfig(mtls.Fixed(certificate))) // StartTLS would prefer a certificate of its own
	server.Start()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.ServerCAs())
	get := func(cert *tls.Certificate, path string) int {
		config := &tls.Config{RootCAs: roots}
		if cert != nil {
			config.Certificates = []tls.Certificate{*cert}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
		resp, err := client.Get("https" + strings.TrimPrefix(server.URL, "http") + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	agent := issue(mtls.Request{Role: mtls.Agent, Name: "node-1"})
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		path string
		want int
	}{
		{"stranger, version", nil, "/version", 200},
		{"stranger, list", nil, "/v2.6/agents", 403},
		{"agent, version", agent, "/version", 200},
		{"agent, list", agent, "/v2.6/agents", 403},
		{"server, list", issue(mtls.Request{Role: mtls.Server, Name: "other", Hosts: []string{"other"}}), "/v2.6/agents", 403},
		{"verifier, list", issue(mtls.Request{Role: mtls.VerifierClient, Name: "verifier"}), "/v2.6/agents", 200},
	} {
		if got := get(tt.cert, tt.path); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func FuzzRegister(f *testing.F) {
	tpm := newTPM(f, 0)
	good, err := json.Marshal(tpm.request())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"ek_tpm":"AAAA","aik_tpm":"AAAA","ekcert":"MAA=","ip":"x","port":1,"mtls_cert":"disabled"}`))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}))
	w := newWorld(f, func(c *registrar.Config) {
		c.PerAddress, c.PerAgent = registrar.Rate{PerSecond: 1e9, Burst: 1e9}, registrar.Rate{PerSecond: 1e9, Burst: 1e9}
	})
	f.Fuzz(func(t *testing.T, body []byte) {
		w.t = t
		if a := w.call("", "POST", "/v2.6/agents/a", string(body)); a.code != 200 && a.code/100 != 4 {
			t.Errorf("%d %s for %q", a.code, a.body, body)
		}
		w.store.records = map[attest.AgentID]registrar.Record{}
	})
}
