package agent

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/wire"
)

func TestNegotiate(t *testing.T) {
	for _, row := range []struct {
		name string
		code int
		body string
		want string
		fail string
	}{
		{"ours", 200, `{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.5","2.6","3.0"]}}`, "2.6", ""},
		{"an older one", 200, `{"code":200,"status":"Success","results":{"current_version":"2.2","supported_versions":["1.0","2.1","2.2"]}}`, "2.2", ""},
		{"no answer to the question", 404, "", "2.6", ""},
		{"none in common", 200, `{"code":200,"status":"Success","results":{"current_version":"3.0","supported_versions":["3.0"]}}`, "", "speaks"},
		{"no JSON", 200, "<html>", "", "malformed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			server, _ := answering(t, row.code, row.body)
			version, err := negotiate(t.Context(), server)
			if row.fail != "" {
				if err == nil || !strings.Contains(err.Error(), row.fail) || !strings.Contains(err.Error(), server.base) {
					t.Errorf("error %v, want %q and the registrar's address", err, row.fail)
				}
				return
			}
			if err != nil || version.String() != row.want {
				t.Errorf("version %s, error %v; want %s", version, err, row.want)
			}
		})
	}
}

// A registrar's credential is outside bytes: what the TPM does not open is an error, and nothing is activated.
func TestRegisterBadCredential(t *testing.T) {
	config := offline(t, startTPM(t))
	a, err := New(config, Environment{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	who, err := a.identify()
	if err != nil {
		t.Fatal(err)
	}
	for name, blob := range map[string]wire.Binary{
		"no blob":        nil,
		"no credential":  wire.Binary("no credential at all"),
		"another's blob": append([]byte{0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1, 0, 68}, append(append(make([]byte, 68), 1, 0), make([]byte, 256)...)...),
	} {
		t.Run(name, func(t *testing.T) {
			var activated bool
			mux := http.NewServeMux()
			mux.HandleFunc("POST /v2.6/agents/{id}", func(out http.ResponseWriter, _ *http.Request) {
				wire.WriteResults(out, wire.RegisterResults{Blob: blob})
			})
			mux.HandleFunc("PUT /", func(http.ResponseWriter, *http.Request) { activated = true })
			server := httptest.NewServer(mux)
			defer server.Close()
			registrar := caller{base: server.URL, client: newHTTPClient(&http.Transport{})}
			if _, err := register(t.Context(), registrar, a.registration(who), a.device); err == nil || errors.Is(err, ErrRefused) {
				t.Errorf("error %v, want one after which it is tried again", err)
			}
			if activated {
				t.Error("the agent activates")
			}
		})
	}
}

// Facing Keylime: registration without TLS where the configuration says so, no native API, and whoever the configured CA signed may ask.
func TestKeylimeMode(t *testing.T) {
	w := newWorld(t)
	registrar := httptest.NewServer(w.handler())
	defer registrar.Close()
	config := w.config(startTPM(t))
	config.Keylime, config.Server, config.CA = true, "", ""
	config.Registrar = registrar.URL
	config.ClientCA = filepath.Join(t.TempDir(), "clients.crt")
	if err := os.WriteFile(config.ClientCA, w.authority.ClientCAs(), 0o644); err != nil {
		t.Fatal(err)
	}
	agent, _ := start(t, config)
	w.eventually("registration", func() bool { return len(w.active) == 1 })
	w.mu.Lock()
	var record wire.RegisterRequest
	for _, record = range w.registered {
	}
	for _, asked := range w.requests {
		if strings.Contains(asked, "/api/v1/") {
			t.Errorf("the native API is dialled: %s", asked)
		}
	}
	w.mu.Unlock()
	a := &attester{t: t, base: "https://" + agent.Address().String(), client: w.client(mtls.Viewer, der(t, record.Certificate))}
	if code, text := a.get("/version"); code != 200 {
		t.Errorf("%d %s", code, text)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	config := w.config(startTPM(t))
	config.Metrics = "127.0.0.1:0"
	a, _ := start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	plain := caller{base: "http://" + a.numbers.Addr().String(), client: newHTTPClient(&http.Transport{})}
	for path, want := range map[string]string{"/healthz": "ok\n", "/metrics": `assay_agent_registrations_total{outcome="made"} 1`} {
		if text := body(t.Context(), t, plain, path); !strings.Contains(text, want) {
			t.Errorf("%s does not say %q:\n%s", path, want, text)
		}
	}
}

func body(ctx context.Context, t *testing.T, from caller, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := from.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var text strings.Builder
	if err := resp.Write(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
