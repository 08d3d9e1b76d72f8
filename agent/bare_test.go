package agent

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/conf"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// bareConfig is that of a machine without a TPM, with a join token.
func (w *world) bareConfig() (Config, string) {
	token := testToken()
	token.Pin = w.authority.Pin()
	config := w.config(nil)
	config.ID, config.JoinToken = "printer-1", conf.Secret(token.String())
	w.bearer = token.Credential()
	return config, token.Credential()
}

func TestAgentWithoutTPM(t *testing.T) {
	w := newWorld(t)
	config, _ := w.bareConfig()
	a, stop := start(t, config)
	w.eventually("two heartbeats", func() bool { return len(w.beats) >= 2 })
	w.mu.Lock()
	if beat := w.beats[0]; beat.Agent != "printer-1" || beat.NodeToken != "" || beat.Kernel == "" {
		t.Errorf("heartbeat %+v", beat)
	}
	if found := w.findings[0]; len(found.Checks) != 7 || found.Checks[0].Name != "tpm" || found.Checks[0].Status != api.PreflightFailing || !strings.Contains(found.Checks[0].Detail, "no TPM 2.0") {
		t.Errorf("preflight %+v", found)
	}
	for _, request := range w.requests {
		if !strings.HasSuffix(request, api.PathAgentBootstrap) && !strings.HasSuffix(request, api.PathAgentHeartbeat) && !strings.HasSuffix(request, api.PathAgentPreflight) {
			t.Errorf("it also asks for %s", request)
		}
	}
	w.mu.Unlock()
	if a.Address() != nil {
		t.Errorf("it listens for quotes on %s", a.Address())
	}
	if err := stop(); err != nil {
		t.Errorf("ends with %v", err)
	}
}

// In Kubernetes the projected token says who it is. Kubelets rotate it: each request carries the file's content of that moment.
func TestAgentWithoutTPMInKubernetes(t *testing.T) {
	w := newWorld(t)
	config := w.config(nil)
	config.TokenFile = filepath.Join(t.TempDir(), "token")
	writeFile(t, config.TokenFile, "first.token\n")
	start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	if beat, found := w.beats[0], w.findings[0]; beat.NodeToken != "first.token" || beat.Agent != "" || found.NodeToken != "first.token" {
		t.Errorf("heartbeat %+v, preflight %+v", beat, found)
	}
	w.mu.Unlock()
	writeFile(t, config.TokenFile, "second.token")
	w.eventually("the rotated token", func() bool { return w.beats[len(w.beats)-1].NodeToken == "second.token" })
	if err := os.Remove(config.TokenFile); err != nil {
		t.Fatal(err)
	}
	w.eventually("nothing for a while", func() bool { w.beats = nil; return true })
	writeFile(t, config.TokenFile, "third.token")
	w.eventually("a heartbeat after a gap", func() bool { return len(w.beats) > 0 && w.beats[len(w.beats)-1].NodeToken == "third.token" })
}

// A refused agent neither ends nor hammers: it tries again with growing pauses.
func TestAgentWithoutTPMRefused(t *testing.T) {
	w := newWorld(t)
	config, _ := w.bareConfig()
	refused := 0
	w.refuse = func(r *http.Request) int {
		if r.URL.Path == api.PathAgentPreflight && refused < 2 {
			refused++
			return http.StatusForbidden
		}
		return 0
	}
	start(t, config)
	w.eventually("a heartbeat after two refusals", func() bool { return len(w.beats) > 0 && refused == 2 })
}

// An agent with a TPM claims its node with the session.
func TestAgentClaimsNode(t *testing.T) {
	w := newWorld(t)
	config := w.config(startTPM(t))
	config.TokenFile = filepath.Join(t.TempDir(), "token")
	writeFile(t, config.TokenFile, "node.token")
	start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.proofs[0].NodeToken != "node.token" || w.beats[0].NodeToken != "" || w.findings[0].NodeToken != "" {
		t.Errorf("session %q, heartbeat %+v", w.proofs[0].NodeToken, w.beats[0])
	}
}

func TestNewWithoutTPM(t *testing.T) {
	w := newWorld(t)
	good, _ := w.bareConfig()
	for name, row := range map[string]struct {
		spoil func(*Config)
		want  []string
	}{
		"nothing says who it is": {func(c *Config) { c.JoinToken = "" }, []string{"no TPM 2.0", "key tpm", "joinToken", "tokenFile"}},
		"facing Keylime": {func(c *Config) {
			c.Keylime, c.Registrar, c.ClientCA, c.Server, c.JoinToken = true, "https://127.0.0.1:1", c.CA, "", ""
		}, []string{"no TPM 2.0", "key tpm"}},
		"a TPM that does not answer": {func(c *Config) { c.TPM = "/dev/null" }, []string{"key tpm"}},
		"a metrics port of nobody":   {func(c *Config) { c.Metrics = "192.0.2.1:1" }, []string{"key metrics"}},
	} {
		config := good
		config.StateDir = filepath.Join(t.TempDir(), "state")
		a, err := New(config, Environment{})
		if err != nil {
			t.Fatalf("%s: without the fault: %v", name, err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		row.spoil(&config)
		a, err = New(config, Environment{})
		if err == nil {
			a.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		for _, part := range row.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
}

func TestNodeTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	a := &Agent{config: Config{TokenFile: path}}
	for name, row := range map[string]struct{ text, want string }{
		"missing": {"", "no such file"}, "empty": {" \n", "does not hold a token"}, "too long": {strings.Repeat("a", api.MaxNodeTokenBytes+1), "does not hold a token"},
	} {
		if name != "missing" {
			writeFile(t, path, row.text)
		} else if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if _, err := a.nodeToken(); err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "tokenFile") || strings.Contains(err.Error(), "aaaa") {
			t.Errorf("%s: %v", name, err)
		}
	}
	writeFile(t, path, "a.b.c\n")
	if token, err := a.nodeToken(); token != "a.b.c" || err != nil {
		t.Errorf("%q, %v", token, err)
	}
}
