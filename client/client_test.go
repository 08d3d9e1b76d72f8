package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
)

// The servers of these tests are real ones that a client must not believe: what Assay's own answers is tested with it, in verifier/httpapi, cmd/assay and test.

// newClient is a client of a server that answers with a handler.
func newClient(t *testing.T, answer http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewTLSServer(answer)
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	c, err := New(Config{URL: server.URL, TLS: &tls.Config{RootCAs: pool}, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

func text(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// wantError compares an error's text with a part of it; "" wants none.
func wantError(t *testing.T, err error, part string) {
	t.Helper()
	if part == "" && err != nil || part != "" && (err == nil || !strings.Contains(err.Error(), part)) {
		t.Errorf("error %v, want %q", err, part)
	}
}

func TestServerURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://assay.example:8443":      "",
		"https://assay.example:8443/":     "",
		"http://assay.example:8443":       "want https://host:port",
		"assay.example:8443":              "want https://host:port",
		"https:///":                       "want https://host:port",
		"https://assay.example/elsewhere": "want https://host:port",
		"https://assay.example:port":      "server URL",
	} {
		t.Run(url, func(t *testing.T) {
			_, err := New(Config{URL: url})
			wantError(t, err, want)
		})
	}
}

// An act counts as done only where the server says so: what stands between may answer anything.
func TestOnlySuccessIsSuccess(t *testing.T) {
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"no content":                  {text(204, ""), ""},
		"not modified":                {text(304, ""), "304"},
		"a redirect that leads away":  {http.RedirectHandler("https://elsewhere.example/", http.StatusTemporaryRedirect).ServeHTTP, "never followed"},
		"a redirect without a target": {text(302, ""), "302"},
		"multiple choices":            {text(300, "{}"), "300"},
		"forbidden":                   {text(403, `{"detail": "the role viewer may not"}`), "the role viewer may not (403 Forbidden)"},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, newClient(t, tt.answer).Approve(t.Context(), "node-1"), tt.want)
		})
	}
}

// Callers forget machines that are not found, so the status is the answer's and not one that a body claims.
func TestStatusOfRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		status   int
		body     string
		want     api.Problem
		notFound bool
	}{
		"as the server words it":   {404, `{"status": 404, "title": "Not Found", "detail": "node x"}`, api.Problem{Status: 404, Title: "Not Found", Detail: "node x"}, true},
		"a body of another status": {502, `{"status": 404, "title": "Gone", "detail": "node x"}`, api.Problem{Status: 502, Title: "Bad Gateway", Detail: "node x"}, false},
		"no detail":                {404, `{"status": 200}`, api.Problem{Status: 404, Title: "Not Found", Detail: "GET /api/v1/nodes/node-1 was refused"}, true},
		"a proxy's page":           {503, `<html>`, api.Problem{Status: 503, Title: "Service Unavailable", Detail: "GET /api/v1/nodes/node-1 was refused"}, false},
		"half a body":              {404, `{"status": 500, "detail": "nod`, api.Problem{Status: 404, Title: "Not Found", Detail: "GET /api/v1/nodes/node-1 was refused"}, true},
		"beyond the limit":         {500, `{"detail": "` + strings.Repeat("x", maxProblemBytes) + `"}`, api.Problem{Status: 500, Title: "Internal Server Error", Detail: "GET /api/v1/nodes/node-1 was refused"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newClient(t, text(tt.status, tt.body)).Node(t.Context(), "node-1")
			var p *ProblemError
			if !errors.As(err, &p) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(tt.want, p.Problem); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
			if NotFound(err) != tt.notFound {
				t.Errorf("not found: %v", NotFound(err))
			}
		})
	}
}

// A name is one element of a path, whatever it holds.
func TestNamesStayInTheirPath(t *testing.T) {
	for name, want := range map[string]string{
		"boot":           "/api/v1/policies/boot",
		"../nodes/x":     "/api/v1/policies/..%2Fnodes%2Fx",
		"a b?c#d%2e/é:1": "/api/v1/policies/a%20b%3Fc%23d%252e%2F%C3%A9:1",
		"..":             "",
		".":              "",
		"":               "",
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			c := newClient(t, func(_ http.ResponseWriter, r *http.Request) { got = r.RequestURI })
			err := c.RemovePolicy(t.Context(), name)
			if want == "" {
				wantError(t, err, "name nothing")
			} else {
				wantError(t, err, "")
			}
			if got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
		})
	}
}

// pages answers a list with one page for each cursor, "" being the first's.
func pages(asked *[]string, by map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.Query().Get("cursor"))
		fmt.Fprint(w, by[r.URL.Query().Get("cursor")])
	}
}

func TestPages(t *testing.T) {
	first := `{"items": [{"id": "a"}], "next": "a"}`
	for name, tt := range map[string]struct {
		pages map[string]string
		asked []string
		want  string
	}{
		"two":                       {map[string]string{"": first, "a": `{"items": [{"id": "b"}]}`}, []string{"", "a"}, ""},
		"a page that leads nowhere": {map[string]string{"": first, "a": `{"items": [{"id": "b"}], "next": "a"}`}, []string{"", "a"}, `the page after "a" does not get further`},
		"a page without items":      {map[string]string{"": first, "a": `{"next": "b"}`}, []string{"", "a"}, `the page after "a" does not get further`},
		"a second page that fails":  {map[string]string{"": first, "a": `[]`}, []string{"", "a"}, "answer of /api/v1/tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []string
			got, err := newClient(t, pages(&asked, tt.pages)).Tokens(t.Context())
			wantError(t, err, tt.want)
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("cursors (-want +got):\n%s", diff)
			}
			if tt.want == "" && len(got) != 2 || tt.want != "" && got != nil {
				t.Errorf("%d items", len(got))
			}
		})
	}
}

// A stream that breaks inside of an event is an error: whoever watches has to list the nodes again.
func TestWatch(t *testing.T) {
	stop := errors.New("enough")
	event := "data: {\"node\": \"node-1\"}\n\n"
	for name, tt := range map[string]struct {
		status int
		body   string
		seen   int
		ready  bool
		want   string
	}{
		"events between comments": {200, ": still here\n\nevent: transition\n" + event + event, 2, true, ""},
		"half an event":           {200, event + "data: {\"node\": \"no", 1, true, "watch: unexpected end of JSON"},
		"an event beyond limits":  {200, event + "data: " + strings.Repeat("x", maxEventBytes), 1, true, "watch: bufio.Scanner: token too long"},
		"one that is too much":    {200, event + event + event + event, 3, true, "enough"},
		"refused":                 {403, `{"detail": "no"}`, 0, false, "no (403 Forbidden)"},
	} {
		t.Run(name, func(t *testing.T) {
			seen, ready := 0, false
			err := newClient(t, text(tt.status, tt.body)).Watch(t.Context(), func() { ready = true }, func(tr api.Transition) error {
				if seen++; seen == 3 {
					return stop
				}
				return nil
			})
			wantError(t, err, tt.want)
			if seen != tt.seen || ready != tt.ready {
				t.Errorf("%d events, ready %v", seen, ready)
			}
		})
	}
}

// A server that accepts and then says nothing holds a caller no longer than the time of a request; a watch lives until its context ends.
func TestSilentServer(t *testing.T) {
	release := make(chan struct{})
	c := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) }) // before the server closes, which waits for its answers
	c.timeout = 50 * time.Millisecond
	if _, err := c.Server(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a request: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(4*c.timeout, cancel)
	if err := c.Watch(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a watch: %v", err)
	}
}

func TestFolder(t *testing.T) {
	authority, err := mtls.New(time.Now)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := authority.Issue(mtls.Request{Role: mtls.Viewer, Name: "anna"})
	if err != nil {
		t.Fatal(err)
	}
	good := map[string][]byte{"ca.pem": authority.ServerCAs(), "cert.pem": issued.CertPEM, "key.pem": issued.KeyPEM}
	for name, tt := range map[string]struct {
		file string
		text []byte
		want string
	}{
		"good":                    {"ca.pem", good["ca.pem"], ""},
		"no CA":                   {"ca.pem", nil, "ca.pem holds no certificate"},
		"a key where the CA lies": {"ca.pem", good["key.pem"], "ca.pem holds no certificate"},
		"no key":                  {"key.pem", nil, "load the client certificate"},
		"another certificate":     {"cert.pem", good["ca.pem"], "load the client certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range good {
				if file == tt.file {
					text = tt.text
				}
				if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := FromFolder("https://127.0.0.1:8443", dir)
			wantError(t, err, tt.want)
		})
	}
	if _, err := FromFolder("https://127.0.0.1:8443", t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty folder: %v", err)
	}
}
