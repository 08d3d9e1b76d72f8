package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/internal/need"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/wire"
)

// manufactured is a TPM that was manufactured once and is copied for each test.
var manufactured = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		return "", err
	}
	return dir, swtpm.Manufacture(context.Background(), swtpm.Options{StateDir: filepath.Join(dir, "tpm"), CADir: filepath.Join(dir, "ca")})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(dropConfig) == "" { // the child has made none
		if dir, err := manufactured(); err == nil {
			if err := os.RemoveAll(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	os.Exit(code)
}

// startTPM starts a new TPM emulator. Every one has the same endorsement seeds.
func startTPM(t *testing.T) *swtpm.Emulator {
	t.Helper()
	need.Swtpm(t)
	made, err := manufactured()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tpm") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	state, err := os.ReadFile(filepath.Join(made, "tpm", "tpm2-00.permall"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	emulator, err := swtpm.Start(t.Context(), swtpm.Config{StateDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := emulator.Stop(); err != nil {
			t.Error(err)
		}
	})
	return emulator
}

// offline is the configuration of an agent whose server does not answer. Without an emulator it has no TPM.
func offline(t *testing.T, emulator *swtpm.Emulator) Config {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, newAuthority(t).ServerCAs(), 0o644); err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	config.Server, config.CA, config.Listen, config.Metrics = "127.0.0.1:1", ca, "127.0.0.1:0", ""
	config.TPM = filepath.Join(t.TempDir(), "no-such-tpm")
	if emulator != nil {
		config.TPM = "swtpm:" + emulator.Socket()
	}
	config.StateDir = filepath.Join(t.TempDir(), "state")
	config.IMAList, config.BootLog, config.User = "", "", ""
	return config
}

func newAuthority(t *testing.T) *mtls.Authority {
	t.Helper()
	authority, err := mtls.Create(filepath.Join(t.TempDir(), "ca"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return authority
}

// world is a server as an agent sees it: registrar and native API on one port. It keeps what agents said, and checks what a server checks:
// activation tags, session proofs, tokens. What real servers do with it is tested in test/integration.
type world struct {
	t         *testing.T
	authority *mtls.Authority
	address   string

	mu         sync.Mutex
	registered map[string]wire.RegisterRequest
	active     map[string]bool
	secrets    map[string][]byte
	challenge  []byte
	token      string
	beats      []api.HeartbeatRequest
	findings   []api.PreflightRequest
	proofs     []api.SessionProof
	bearer     string                    // of agents without a session; or a node token in the body
	refuse     func(r *http.Request) int // a status other than 0 is answered
	requests   []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, authority: newAuthority(t),
		registered: map[string]wire.RegisterRequest{}, active: map[string]bool{}, secrets: map[string][]byte{},
	}
	certificate, err := w.authority.Renewing(mtls.Request{Role: mtls.Server, Name: "server", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", mtls.ServerConfig(certificate))
	if err != nil {
		t.Fatal(err)
	}
	w.address = listener.Addr().String()
	server := &http.Server{Handler: w.handler(), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	return w
}

func (w *world) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(out http.ResponseWriter, _ *http.Request) {
		wire.WriteResults(out, wire.RegistrarVersionResults{CurrentVersion: "2.6", SupportedVersions: wire.VersionNames()})
	})
	mux.HandleFunc("POST /v2.6/agents/{id}", w.register)
	mux.HandleFunc("PUT /v2.6/agents/{id}", w.activate)
	mux.HandleFunc("GET "+api.PathAgentBootstrap, w.bootstrap)
	mux.HandleFunc("POST "+api.PathAgentSessions, w.begin)
	mux.HandleFunc("PUT "+api.PathAgentSessions+"/s", w.prove)
	mux.HandleFunc("POST "+api.PathAgentHeartbeat, reported(w, &w.beats))
	mux.HandleFunc("POST "+api.PathAgentPreflight, reported(w, &w.findings))
	return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.requests = append(w.requests, r.Method+" "+r.URL.Path)
		if w.refuse != nil {
			if code := w.refuse(r); code != 0 {
				wire.WriteStatus(out, code, "refused by the test")
				return
			}
		}
		mux.ServeHTTP(out, r)
	})
}

func (w *world) register(out http.ResponseWriter, r *http.Request) {
	var body wire.RegisterRequest
	ek, ak, err := func() (ek endorsement.EK, ak endorsement.AK, err error) {
		if err = json.NewDecoder(r.Body).Decode(&body); err != nil {
			return
		}
		if ek, err = endorsement.ParseEK(body.EK); err != nil {
			return
		}
		ak, failures, err := endorsement.ParseAK(body.AIK)
		if len(failures) > 0 {
			err = errors.New(failures[0].Detail)
		}
		return ek, ak, err
	}()
	if err != nil {
		wire.WriteStatus(out, http.StatusBadRequest, err.Error())
		return
	}
	secret, err := wire.NewChallenge(rand.Reader)
	if err != nil {
		w.t.Error(err)
	}
	credential, err := endorsement.MakeCredential(rand.Reader, ek, ak.Name(), secret)
	if err != nil {
		w.t.Error(err)
	}
	id := r.PathValue("id")
	w.registered[id], w.secrets[id], w.active[id] = body, secret, false
	wire.WriteResults(out, wire.RegisterResults{Blob: wire.PackCredential(credential)})
}

func (w *world) activate(out http.ResponseWriter, r *http.Request) {
	var body wire.ActivateRequest
	id := r.PathValue("id")
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.AuthTag != wire.AuthTag(w.secrets[id], id) {
		wire.WriteStatus(out, http.StatusBadRequest, "wrong tag")
		return
	}
	w.active[id] = true
	wire.WriteResults(out, wire.Empty{})
}

func (w *world) bootstrap(out http.ResponseWriter, _ *http.Request) {
	_, port, err := net.SplitHostPort(w.address)
	if err != nil {
		w.t.Error(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		w.t.Error(err)
	}
	w.answer(out, 200, api.Bootstrap{
		RegistrarPort: number, ServerCAs: string(w.authority.ServerCAs()), ClientCAs: string(w.authority.ClientCAs()),
	})
}

func (w *world) begin(out http.ResponseWriter, r *http.Request) {
	var body api.SessionRequest
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !w.active[string(body.Agent)] {
		wire.WriteStatus(out, http.StatusNotFound, "unknown agent")
		return
	}
	w.challenge = []byte("a challenge of " + string(body.Agent))
	w.answer(out, 201, api.SessionChallenge{Session: "s", Challenge: w.challenge})
}

func (w *world) prove(out http.ResponseWriter, r *http.Request) {
	var proof api.SessionProof
	if err := json.NewDecoder(r.Body).Decode(&proof); err != nil {
		w.t.Error(err)
	}
	w.proofs = append(w.proofs, proof)
	key, _ := mtls.PeerKey(r.TLS)
	qualifying := attest.SHA256.Sum([]byte(api.SessionDomain), w.challenge, key.Bytes())
	for _, agent := range w.registered {
		ak, _, err := endorsement.ParseAK(agent.AIK)
		if err != nil {
			w.t.Error(err)
		}
		if endorsement.VerifyCertify(ak, proof.Attest, proof.Signature, qualifying.Bytes()) == nil {
			w.token = fmt.Sprint("token of ", key)
			w.answer(out, 200, api.SessionToken{Token: w.token, Expires: time.Now().Add(time.Hour)})
			return
		}
	}
	wire.WriteStatus(out, http.StatusUnauthorized, "not proven")
}

func unproven(body any) api.Unproven {
	switch body := body.(type) {
	case api.HeartbeatRequest:
		return body.Unproven
	case api.PreflightRequest:
		return body.Unproven
	}
	return api.Unproven{}
}

// reported takes what an agent with a session sends.
func reported[T any](w *world, into *[]T) http.HandlerFunc {
	return func(out http.ResponseWriter, r *http.Request) {
		var body T
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			w.t.Error(err)
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok && unproven(body).NodeToken == "" || ok && token != w.token && token != w.bearer {
			wire.WriteStatus(out, http.StatusUnauthorized, "no session")
			return
		}
		*into = append(*into, body)
		out.WriteHeader(http.StatusNoContent)
	}
}

func (w *world) answer(out http.ResponseWriter, code int, body any) {
	out.Header().Set("Content-Type", "application/json")
	out.WriteHeader(code)
	if err := json.NewEncoder(out).Encode(body); err != nil {
		w.t.Error(err)
	}
}

// forget makes the server one that was installed anew.
func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.registered)
	clear(w.active)
	w.token, w.beats, w.findings = "", nil, nil
}

// one returns an agent that registered, with what it sent.
func (w *world) one() (string, wire.RegisterRequest) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, record := range w.registered {
		return id, record
	}
	w.t.Fatal("nobody registered")
	return "", wire.RegisterRequest{}
}

// eventually waits until cond, which is called with the world locked.
func (w *world) eventually(what string, cond func() bool) {
	w.t.Helper()
	for range 600 {
		w.mu.Lock()
		ok := cond()
		w.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Fatalf("not within 30 s: %s; requests: %s", what, strings.Join(w.requests, ", "))
}

// config is the configuration of an agent of this server.
func (w *world) config(emulator *swtpm.Emulator) Config {
	config := offline(w.t, emulator)
	config.Server = w.address
	config.CA = filepath.Join(w.t.TempDir(), "ca.crt")
	if err := os.WriteFile(config.CA, w.authority.ServerCAs(), 0o644); err != nil {
		w.t.Fatal(err)
	}
	config.Heartbeat = conf.Duration(minHeartbeat)
	return config
}

// client is an HTTP client with a certificate of the role, or with none, that accepts one agent certificate.
func (w *world) client(role mtls.Role, agentCertificate []byte) *http.Client {
	w.t.Helper()
	peer := mtls.Peer{}
	if role != "" {
		issued, err := w.authority.Issue(mtls.Request{Role: role, Name: string(role)})
		if err != nil {
			w.t.Fatal(err)
		}
		pair, err := issued.TLS()
		if err != nil {
			w.t.Fatal(err)
		}
		peer.Certificate = mtls.Fixed(pair)
	}
	config, err := peer.PinCertificate(agentCertificate)
	if err != nil {
		w.t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 30 * time.Second}
}

// start runs an agent until the test ends; stop ends it before and returns what Run returned.
func start(t *testing.T, config Config) (a *Agent, stop func() error) {
	t.Helper()
	return startAt(t, config, time.Now)
}

// startAt is start with a clock.
func startAt(t *testing.T, config Config, now func() time.Time) (a *Agent, stop func() error) {
	t.Helper()
	a, err := New(config, Environment{Version: "test", Now: now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("the agent ends with %v", err)
		}
	})
	return a, stop
}
