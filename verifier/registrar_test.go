package verifier

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/wire"
)

// registrarStub answers as Keylime's registrar does.
func registrarStub(t *testing.T, answer http.HandlerFunc) *RegistrarClient {
	t.Helper()
	server := httptest.NewTLSServer(answer)
	t.Cleanup(server.Close)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	return NewRegistrarClient(server.URL, server.Client().Transport.(*http.Transport).TLSClientConfig)
}

func TestRegistrarClient(t *testing.T) {
	ip, port, certificate, disabled := "10.0.0.1", 9002, "PEM", wire.CertificateDisabled
	record := wire.AgentRecord{EK: []byte("ek"), AIK: []byte("ak"), IP: &ip, Port: &port, Certificate: &certificate}
	var paths []string
	client := registrarStub(t, func(w http.ResponseWriter, r *http.Request) {
		paths = append(paths, r.URL.Path)
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/v2.6")
		switch r.URL.Path {
		case "/agents":
			wire.WriteResults(w, wire.AgentList{UUIDs: []string{"node-1", "node-2"}})
		case "/agents/node-1":
			wire.WriteResults(w, record)
		case "/agents/disabled":
			other := record
			other.Certificate, other.IP, other.Port = &disabled, nil, nil
			wire.WriteResults(w, other)
		case "/agents/keyless":
			wire.WriteResults(w, wire.AgentRecord{EK: []byte("ek")})
		case "/agents/elsewhere":
			http.Redirect(w, r, "/agents/node-1", http.StatusFound)
		case "/agents/away":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/agents/garbage":
			io.WriteString(w, "{")
		default:
			wire.WriteStatus(w, http.StatusNotFound, "not found")
		}
	})
	got, err := client.Agent(t.Context(), node1)
	want := Registered{ID: node1, EK: []byte("ek"), AK: []byte("ak"), Address: ip, Port: port, Certificate: certificate}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := client.Agent(t.Context(), "disabled"); err != nil || got.Certificate != "" || got.Address != "" {
		t.Errorf("without a certificate: %+v, %v", got, err)
	}
	ids, err := client.Agents(t.Context())
	if diff := cmp.Diff([]attest.AgentID{"node-1", "node-2"}, ids); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for id, want := range map[attest.AgentID]error{
		"nobody": ErrNotFound, "keyless": ErrRegistrar, "elsewhere": ErrRegistrar, "away": ErrRegistrar, "garbage": ErrRegistrar,
	} {
		if _, err := client.Agent(t.Context(), id); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", id, err, want)
		}
	}
	hostile := registrarStub(t, func(w http.ResponseWriter, _ *http.Request) {
		wire.WriteResults(w, wire.AgentList{UUIDs: []string{"\x1b[2J"}})
	})
	if _, err := hostile.Agents(t.Context()); !errors.Is(err, ErrRegistrar) {
		t.Errorf("a hostile list: %v", err)
	}
}
