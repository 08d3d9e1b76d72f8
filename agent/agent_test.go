package agent

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/tpm"
)

// The whole way of a first start: registration, session, preflight, heartbeats; and of a second one with the same keys.
func TestAgentReports(t *testing.T) {
	w, emulator := newWorld(t), startTPM(t)
	config := w.config(emulator)
	_, stop := start(t, config)
	w.eventually("two heartbeats", func() bool { return len(w.beats) >= 2 })
	w.mu.Lock()
	if len(w.findings) != 1 || len(w.findings[0].Checks) != 7 {
		t.Errorf("preflight %+v, want one with 7 checks", w.findings)
	}
	if beat := w.beats[0]; beat.Version != "test" || beat.Kernel == "" || beat.Uptime == 0 {
		t.Errorf("heartbeat %+v", beat)
	}
	var id string
	for id = range w.registered {
	}
	first := w.registered[id]
	w.mu.Unlock()
	ek, err := endorsement.ParseEK(first.EK)
	if err != nil {
		t.Fatal(err)
	}
	if id != string(ek.ID()) {
		t.Errorf("the agent's name is %s, want the EK's hash %s", id, ek.ID())
	}
	if len(first.EKCert) == 0 {
		t.Error("no EK certificate is sent")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.forget()
	start(t, config)
	w.eventually("a heartbeat after a restart", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if again := w.registered[id]; string(again.AIK) != string(first.AIK) || again.Certificate != first.Certificate {
		t.Error("a restart changes the AK or the certificate")
	}
}

func TestAgentJoinToken(t *testing.T) {
	w, emulator := newWorld(t), startTPM(t)
	token := testToken()
	token.Pin = w.authority.Pin()
	config := w.config(emulator)
	config.CA, config.ID = "", "node-7"
	config.JoinTokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(config.JoinTokenFile, []byte(token.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if sent := w.registered["node-7"].JoinToken; sent != token.Credential() {
		t.Errorf("join token %q, want %q", sent, token.Credential())
	}
}

// A server that was installed anew knows nobody: the agent registers again by itself.
func TestAgentRegistersAgain(t *testing.T) {
	w := newWorld(t)
	start(t, w.config(startTPM(t)))
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.forget()
	w.eventually("a heartbeat after a new registration", func() bool { return len(w.registered) == 1 && len(w.beats) > 0 })
}

// Sessions live in the server's memory: after its restart a new session is enough.
func TestAgentSessionAgain(t *testing.T) {
	w := newWorld(t)
	start(t, w.config(startTPM(t)))
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	w.token, w.beats, w.requests = "", nil, nil
	w.mu.Unlock()
	w.eventually("a heartbeat in a new session", func() bool { return len(w.beats) > 0 })
	w.mu.Lock()
	defer w.mu.Unlock()
	if text := strings.Join(w.requests, " "); strings.Contains(text, "/v2.6/agents/") {
		t.Errorf("the agent registered again: %s", text)
	}
}

func TestAgentRetries(t *testing.T) {
	w := newWorld(t)
	failing := 2
	w.refuse = func(r *http.Request) int {
		if failing > 0 && r.Method == http.MethodPut {
			failing--
			return http.StatusInternalServerError
		}
		return 0
	}
	start(t, w.config(startTPM(t)))
	w.eventually("a heartbeat in spite of two errors", func() bool { return len(w.beats) > 0 })
}

// ends runs an agent that has to give up.
func ends(t *testing.T, config Config) error {
	t.Helper()
	a, err := New(config, Environment{})
	if err != nil {
		t.Fatal(err)
	}
	return a.Run(t.Context())
}

func TestAgentRefused(t *testing.T) {
	for code, want := range map[int]string{http.StatusForbidden: "reimaged", http.StatusUnauthorized: "join token"} {
		w := newWorld(t)
		config := w.config(startTPM(t))
		w.refuse = func(r *http.Request) int {
			if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/v2.6/agents/") {
				return code
			}
			return 0
		}
		err := ends(t, config)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "refused by the test") {
			t.Errorf("status %d: error %v, want ErrRefused with %q and the registrar's words", code, err, want)
		}
	}
}

// Another CA's server is not spoken to, by either way of trust.
func TestAgentWrongServer(t *testing.T) {
	emulator := startTPM(t)
	w, other := newWorld(t), newAuthority(t)
	for name, distrust := range map[string]func(*Config){
		"CA": func(c *Config) {
			if err := os.WriteFile(c.CA, other.ServerCAs(), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"pin": func(c *Config) {
			token := testToken()
			token.Pin = other.Pin()
			c.CA = filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(c.CA, []byte(token.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			c.CA, c.JoinTokenFile = "", c.CA
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := w.config(emulator)
			distrust(&config)
			a, err := New(config, Environment{})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			who, err := a.identify()
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = a.meet(t.Context(), who)
			if err == nil || !strings.Contains(err.Error(), w.address) || !strings.Contains(err.Error(), "certificate") && !strings.Contains(err.Error(), "pin") {
				t.Errorf("error %v, want one that names %s and what is wrong with its certificate", err, w.address)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.requests) > 0 {
				t.Errorf("the agent spoke to it: %v", w.requests)
			}
		})
	}
}

func TestAgentUnreachableServer(t *testing.T) {
	a, err := New(offline(t, startTPM(t)), Environment{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	who, err := a.identify()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = a.meet(t.Context(), who); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("error %v, want one that names the server", err)
	}
}

// What is wrong with the machine is said before anything is sent, with the thing and the key that names it.
func TestNewBadMachine(t *testing.T) {
	emulator := startTPM(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, row := range []struct {
		name  string
		spoil func(t *testing.T, c *Config)
		want  []string
	}{
		{"port in use", func(_ *testing.T, c *Config) { c.Listen = taken.Addr().String() }, []string{"address already in use", "key listen", taken.Addr().String()}},
		{"metrics port in use", func(_ *testing.T, c *Config) { c.Metrics = taken.Addr().String() }, []string{"address already in use", "key metrics"}},
		{"no TPM", func(_ *testing.T, c *Config) { c.TPM = "/dev/no-such-tpm" }, []string{"no TPM 2.0", "/dev/no-such-tpm", "key tpm"}},
		{"no CA file", func(_ *testing.T, c *Config) { c.CA = "/no-such-ca" }, []string{"/no-such-ca", "key ca"}},
		{"state below a file", func(_ *testing.T, c *Config) { c.StateDir = filepath.Join(c.CA, "state") }, []string{"key stateDir", "ca.crt/state"}},
		{"state of another version", func(t *testing.T, c *Config) {
			if err := os.MkdirAll(c.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(c.StateDir, "VERSION"), []byte("assay-agent 99\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, []string{"assay-agent 99", "key stateDir"}},
		{"bad configuration", func(_ *testing.T, c *Config) { c.AK = "x" }, []string{"ak: "}},
	} {
		t.Run(row.name, func(t *testing.T) {
			config := offline(t, emulator)
			a, err := New(config, Environment{})
			if err != nil {
				t.Fatalf("without the fault: %v", err)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			row.spoil(t, &config)
			_, err = New(config, Environment{})
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range row.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
		})
	}
}

// A cleared TPM wraps its keys otherwise: the kept AK cannot be loaded, a new one is made, once.
func TestAKAfterClear(t *testing.T) {
	emulator := startTPM(t)
	config := offline(t, emulator)
	key := func() string {
		t.Helper()
		a, err := New(config, Environment{})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if _, err := a.identify(); err != nil {
			t.Fatal(err)
		}
		return string(a.device.ak.Key().Name())
	}
	first := key()
	if key() != first {
		t.Error("a restart makes a new AK")
	}
	clearTPM(t, emulator)
	second := key()
	if second == first {
		t.Error("the AK survives TPM2_Clear")
	}
	if key() != second {
		t.Error("the new AK is not kept")
	}
	config.AK = string(tpm.ECC256)
	if third := key(); third == second || key() != third {
		t.Error("another kind of AK is not made, or not kept")
	}
}

func clearTPM(t *testing.T, emulator *swtpm.Emulator) {
	t.Helper()
	device, err := linuxudstpm.Open(emulator.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	lockout := tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.Clear{AuthHandle: lockout}).Execute(device); err != nil {
		t.Fatal(err)
	}
}

func TestPreflightOfThisMachine(t *testing.T) {
	config := offline(t, startTPM(t))
	status := func(checks []api.PreflightCheck, name string) api.PreflightStatus {
		for _, check := range checks {
			if check.Name == name {
				return check.Status
			}
		}
		return "missing"
	}
	checks := Preflight(config)
	for _, name := range []string{"tpm", "pcr-banks", "ek-certificate"} {
		if got := status(checks, name); got != api.PreflightOK {
			t.Errorf("%s is %s, want ok", name, got)
		}
	}
	config.TPM = "/dev/no-such-tpm"
	if got := status(Preflight(config), "tpm"); got != api.PreflightFailing {
		t.Errorf("tpm is %s, want failing", got)
	}
}
