package mtls_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/internal/mtls"
)

// serverView makes a connection with the given client certificate and returns what the server saw of it.
func serverView(t *testing.T, a *mtls.Authority, c *clock, certificate mtls.Source) tls.ConnectionState {
	t.Helper()
	address, states := listen(t, mtls.ServerConfig(serverSource(t, a)))
	config, err := mtls.Peer{Host: host, Certificate: certificate, Now: c.now}.TrustCA(a.ServerCAs())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(address, config); err != nil {
		t.Fatal(err)
	}
	return <-states
}

func newClients(t *testing.T, bundle []byte, c *clock) *mtls.Clients {
	t.Helper()
	clients, err := mtls.NewClients(bundle, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return clients
}

func TestIdentifyEveryClientRole(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	clients := newClients(t, a.ClientCAs(), c)
	for _, role := range mtls.ClientRoles() {
		t.Run(string(role), func(t *testing.T) {
			issued := issue(t, a, mtls.Request{Role: role, Name: "ada"})
			state := serverView(t, a, c, source(t, issued))
			got, err := clients.Identify(&state)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(mtls.Identity{Role: role, Name: "ada"}, got); diff != "" {
				t.Error(diff)
			}
			if role, name, ok := clients.RoleOf(&state); !ok || role != got.Role || name != got.Name {
				t.Errorf("RoleOf: %s %q %v", role, name, ok)
			}
			if key, ok := mtls.PeerKey(&state); !ok || key != mtls.KeyDigest(issued.Certificate) {
				t.Errorf("PeerKey: %s %v", key, ok)
			}
		})
	}
}

// Each of these reaches the server, which sees the key and no role.
func TestIdentifyRefuses(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, c), newAuthority(t, c)
	clients := newClients(t, a.ClientCAs(), c)
	administrator := mtls.Request{Role: mtls.Administrator, Name: "ada"}
	agent := issue(t, a, mtls.Request{Role: mtls.Agent, Name: "node"})
	borrowed := issue(t, a, administrator)
	borrowed.CertPEM = append(agentLeaf(agent), borrowed.CertPEM...)
	borrowed.KeyPEM = agent.KeyPEM
	for _, row := range []struct {
		name   string
		issued mtls.Issued
		want   string
	}{
		{"administrator of another installation", issue(t, other, administrator), "unknown authority"},
		{"agent of the agents' CA", agent, "unknown authority"},
		{"agent that sends an administrator's certificate as its issuer", borrowed, "unknown authority"},
		{"server of the servers' CA", issue(t, a, mtls.Request{Role: mtls.Server, Name: "s", Hosts: []string{host}}), "unknown authority"},
		{"agent's own key", selfSigned(t, c, "node"), "unknown authority"},
		{"self-signed administrator", forged(t, c, "administrator"), "unknown authority"},
	} {
		t.Run(row.name, func(t *testing.T) {
			state := serverView(t, a, c, source(t, row.issued))
			if who, err := clients.Identify(&state); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, %v; want %q", who, err, row.want)
			}
			if role, name, ok := clients.RoleOf(&state); ok || role != "" || name != "" {
				t.Errorf("RoleOf: %q %q %v", role, name, ok)
			}
			if _, ok := mtls.PeerKey(&state); !ok {
				t.Error("the peer's key is not seen")
			}
		})
	}
}

func agentLeaf(issued mtls.Issued) []byte {
	text, _, _ := strings.Cut(string(issued.CertPEM), "-----END CERTIFICATE-----\n")
	return []byte(text + "-----END CERTIFICATE-----\n")
}

// A user's own PKI may be the clients' CA; then what the leaf says has not been checked by Issue.
func TestIdentifyRefusesLeavesOfATrustedCAWithoutOneClientRole(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	for _, row := range []struct {
		name  string
		roles []string
		want  string
	}{
		{"none", nil, "0 roles"},
		{"two", []string{"viewer", "administrator"}, "2 roles"},
		{"unknown", []string{"root"}, "unknown role"},
		{"server's", []string{"server"}, "not a client's"},
		{"agent's", []string{"agent"}, "not a client's"},
	} {
		t.Run(row.name, func(t *testing.T) {
			leaf := forged(t, c, row.roles...)
			state := serverView(t, a, c, source(t, leaf))
			_, err := newClients(t, leaf.CertPEM, c).Identify(&state)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
	t.Run("one", func(t *testing.T) {
		leaf := forged(t, c, "viewer")
		state := serverView(t, a, c, source(t, leaf))
		if _, err := newClients(t, leaf.CertPEM, c).Identify(&state); err != nil {
			t.Error(err)
		}
	})
}

func TestIdentifyExpiresInTheMiddleOfAConnection(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	clients := newClients(t, a.ClientCAs(), c)
	issued := issue(t, a, mtls.Request{Role: mtls.Viewer, Name: "v", Lifetime: time.Hour})
	state := serverView(t, a, c, source(t, issued))
	if _, _, ok := clients.RoleOf(&state); !ok {
		t.Fatal("no role while it is valid")
	}
	c.pass(time.Hour + time.Second)
	var invalid x509.CertificateInvalidError
	if _, err := clients.Identify(&state); !errors.As(err, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("after its end: %v", err)
	}
}

func TestIdentifyWithoutCertificate(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	clients := newClients(t, a.ClientCAs(), c)
	state := serverView(t, a, c, nil)
	for name, state := range map[string]*tls.ConnectionState{
		"anonymous": &state, "no TLS": nil, "before the handshake's end": {PeerCertificates: []*x509.Certificate{issue(t, a, mtls.Request{Role: mtls.Viewer, Name: "v"}).Certificate}},
	} {
		if _, err := clients.Identify(state); !errors.Is(err, mtls.ErrNoCertificate) {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := mtls.PeerKey(state); ok {
			t.Errorf("%s: a key", name)
		}
	}
}

func TestParseRole(t *testing.T) {
	for _, role := range append(mtls.ClientRoles(), mtls.Server, mtls.Agent) {
		if got, err := mtls.ParseRole(string(role)); err != nil || got != role {
			t.Errorf("%s: %q, %v", role, got, err)
		}
	}
	for _, text := range []string{"", "admin", "Administrator"} {
		if _, err := mtls.ParseRole(text); err == nil {
			t.Errorf("%q is a role", text)
		}
	}
}
