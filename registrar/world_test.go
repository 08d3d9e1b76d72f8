package registrar_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/wire"
)

// world is a registrar with everything around it.
type world struct {
	t      testing.TB
	now    time.Time
	store  *memory
	tokens *tokens
	vendor *vendor
	roots  *endorsement.Roots
	log    bytes.Buffer

	metrics *prometheus.Registry
	reg     *registrar.Registrar
	tls     http.Handler
	plain   http.Handler
	// from is the address and port of who calls; "" for httptest's.
	from string
}

// role is who the caller of a test's request is; it stands in the place of a client certificate.
type role = mtls.Role

func newWorld(t testing.TB, change ...func(*registrar.Config)) *world {
	t.Helper()
	w := &world{t: t, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), store: newMemory(), metrics: prometheus.NewRegistry()}
	w.tokens = &tokens{map[string][]byte{"t1": bytes.Repeat([]byte{1}, 16), "t2": bytes.Repeat([]byte{2}, 16)}, map[string]attest.AgentID{}, false}
	w.vendor = newVendor(t, 2, w.now)
	w.roots = w.vendor.roots(t)
	cfg := registrar.Config{
		Store: w.store, Tokens: w.tokens,
		Roots: func(context.Context) (*endorsement.Roots, error) { return w.roots, nil },
		Role: func(state *tls.ConnectionState) (mtls.Role, string, bool) {
			if state == nil || state.ServerName == "" {
				return "", "", false
			}
			return mtls.Role(state.ServerName), "alice", true
		},
		Now: func() time.Time { return w.now }, Log: slog.New(slog.NewTextHandler(&w.log, nil)), Metrics: w.metrics,
	}
	for _, c := range change {
		c(&cfg)
	}
	var err error
	if w.reg, err = registrar.New(cfg); err != nil {
		t.Fatal(err)
	}
	w.tls, w.plain = w.reg.Handler(), w.reg.PlainHandler()
	return w
}

// joinToken is what an agent sends of token n.
func joinToken(n int) string {
	return fmt.Sprintf("t%d.%s", n, map[int]string{1: "AQEBAQEBAQEBAQEBAQEBAQ", 2: "AgICAgICAgICAgICAgICAg"}[n])
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
}

// status returns the text of an envelope or of an errors object.
func (a answer) status() string {
	var both struct {
		Status string
		Errors []wire.ErrorObject
	}
	if json.Unmarshal([]byte(a.body), &both) != nil {
		return a.body
	}
	if len(both.Errors) > 0 {
		return both.Errors[0].Detail
	}
	return both.Status
}

// call sends a JSON request as somebody; as "" is a stranger.
func (w *world) call(as role, method, path string, body any) answer {
	w.t.Helper()
	text, isText := body.(string)
	if !isText && body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			w.t.Fatal(err)
		}
		text = string(encoded)
	}
	r := httptest.NewRequest(method, path, bytes.NewReader([]byte(text)))
	r.TLS = &tls.ConnectionState{ServerName: string(as)}
	r.RemoteAddr = cmp.Or(w.from, r.RemoteAddr)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return w.send(w.tls, r)
}

func (w *world) send(h http.Handler, r *http.Request) answer {
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, r)
	return answer{recorder.Code, recorder.Header(), recorder.Body.String()}
}

// register registers a machine and returns the answer with its credential blob.
func (w *world) register(id attest.AgentID, body any) (answer, []byte) {
	w.t.Helper()
	a := w.call("", "POST", "/v2.6/agents/"+string(id), body)
	var results wire.Envelope[wire.RegisterResults]
	if a.code == http.StatusOK {
		if err := json.Unmarshal([]byte(a.body), &results); err != nil {
			w.t.Fatal(err)
		}
	}
	return a, results.Results.Blob
}

// join registers and activates a machine, and returns why it waits for approval.
func (w *world) join(id attest.AgentID, tpm *softTPM, change ...func(*wire.RegisterRequest)) string {
	w.t.Helper()
	body := tpm.request()
	for _, c := range change {
		c(&body)
	}
	a, blob := w.register(id, body)
	if a.code != http.StatusOK {
		w.t.Fatalf("register: %d %s", a.code, a.status())
	}
	a = w.call("", "PUT", "/v2.6/agents/"+string(id), wire.ActivateRequest{AuthTag: tpm.proof(blob, id)})
	if a.code != http.StatusOK {
		w.t.Fatalf("activate: %d %s", a.code, a.status())
	}
	var results wire.Envelope[wire.ActivateResults]
	if err := json.Unmarshal([]byte(a.body), &results); err != nil {
		w.t.Fatal(err)
	}
	return results.Results.Approval
}

// show returns what administrators see, and the status.
func (w *world) show(id attest.AgentID) (wire.AgentRecord, answer) {
	w.t.Helper()
	a := w.call(mtls.VerifierClient, "GET", "/v2.6/agents/"+string(id), nil)
	var results wire.Envelope[wire.AgentRecord]
	if a.code == http.StatusOK {
		if err := json.Unmarshal([]byte(a.body), &results); err != nil {
			w.t.Fatal(err)
		}
	}
	return results.Results, a
}

// want ends the test unless an answer has the code and its text holds the detail.
func (w *world) want(a answer, code int, detail string) {
	w.t.Helper()
	if a.code != code || !bytes.Contains([]byte(a.status()), []byte(detail)) {
		w.t.Errorf("got %d %q, want %d with %q", a.code, a.status(), code, detail)
	}
}
