package mtls_test

import (
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
)

// config makes a client configuration or ends the test.
func config(t *testing.T, make func() (*tls.Config, error)) *tls.Config {
	t.Helper()
	made, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestClientsAcceptOnlyTheirServer(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, c), newAuthority(t, c)
	peer, wrongHost := mtls.Peer{Host: host, Now: c.now}, mtls.Peer{Host: "other.test", Now: c.now}
	byAddress := mtls.Peer{Host: "127.0.0.1", Now: c.now}
	agent, agent2 := selfSigned(t, c, "node"), selfSigned(t, c, "node")
	server := serverSource(t, a)
	for _, row := range []struct {
		name   string
		server mtls.Source
		client func() (*tls.Config, error)
		want   string // "" is accepted
	}{
		{"CA", server, func() (*tls.Config, error) { return peer.TrustCA(a.ServerCAs()) }, ""},
		{"CA, by address", server, func() (*tls.Config, error) { return byAddress.TrustCA(a.ServerCAs()) }, ""},
		{"CA, other host", server, func() (*tls.Config, error) { return wrongHost.TrustCA(a.ServerCAs()) }, "not other.test"},
		{"other CA", server, func() (*tls.Config, error) { return peer.TrustCA(other.ServerCAs()) }, "unknown authority"},
		{"clients' CA", server, func() (*tls.Config, error) { return peer.TrustCA(a.ClientCAs()) }, "unknown authority"},
		{"agent as server", source(t, issue(t, a, mtls.Request{Role: mtls.Agent, Name: "n", Hosts: []string{host}})),
			func() (*tls.Config, error) { return peer.TrustCA(a.ServerCAs()) }, "unknown authority"},
		{"pin", server, func() (*tls.Config, error) { return peer.PinCA(a.Pin()) }, ""},
		{"pin, by address", server, func() (*tls.Config, error) { return byAddress.PinCA(a.Pin()) }, ""},
		{"pin, other host", server, func() (*tls.Config, error) { return wrongHost.PinCA(a.Pin()) }, "not other.test"},
		{"other pin", server, func() (*tls.Config, error) { return peer.PinCA(other.Pin()) }, "no CA in its chain"},
		{"pin of a server that holds no chain", source(t, agent), func() (*tls.Config, error) { return peer.PinCA(a.Pin()) }, "no CA in its chain"},
		{"pin of a leaf's own key", source(t, agent), func() (*tls.Config, error) { return peer.PinCA(mtls.KeyDigest(agent.Certificate)) }, "no CA in its chain"},
		{"pinned CA only shown", shown(t, agent, a), func() (*tls.Config, error) { return peer.PinCA(a.Pin()) }, "unknown authority"},
		{"certificate", source(t, agent), func() (*tls.Config, error) { return peer.PinCertificate(agent.Certificate.Raw) }, ""},
		{"certificate, whatever the host", source(t, agent), func() (*tls.Config, error) { return wrongHost.PinCertificate(agent.Certificate.Raw) }, ""},
		{"other certificate", source(t, agent2), func() (*tls.Config, error) { return peer.PinCertificate(agent.Certificate.Raw) }, "another certificate"},
		{"server in the agent's place", server, func() (*tls.Config, error) { return peer.PinCertificate(agent.Certificate.Raw) }, "another certificate"},
	} {
		t.Run(row.name, func(t *testing.T) {
			address, _ := listen(t, mtls.ServerConfig(row.server))
			_, err := dial(address, config(t, row.client))
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("have %v, want %q", err, row.want)
			}
		})
	}
}

// shown appends the servers' CA to the chain of a certificate that it did not sign.
func shown(t *testing.T, issued mtls.Issued, a *mtls.Authority) mtls.Source {
	t.Helper()
	issued.CertPEM = append(append([]byte{}, issued.CertPEM...), a.ServerCAs()...)
	return source(t, issued)
}

func TestClientsRefuseExpiredServers(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	agent := selfSigned(t, c, "node")
	peer := mtls.Peer{Host: host, Now: c.now}
	for name, row := range map[string]struct {
		server mtls.Source
		client func() (*tls.Config, error)
	}{
		"CA":          {serverSource(t, a), func() (*tls.Config, error) { return peer.TrustCA(a.ServerCAs()) }},
		"pin":         {serverSource(t, a), func() (*tls.Config, error) { return peer.PinCA(a.Pin()) }},
		"certificate": {source(t, agent), func() (*tls.Config, error) { return peer.PinCertificate(agent.Certificate.Raw) }},
	} {
		t.Run(name, func(t *testing.T) {
			address, _ := listen(t, mtls.ServerConfig(row.server))
			client := config(t, row.client)
			if _, err := dial(address, client); err != nil {
				t.Fatalf("while it is valid: %v", err)
			}
			c.pass(91 * 24 * time.Hour)
			defer c.pass(-91 * 24 * time.Hour)
			if _, err := dial(address, client); err == nil || !strings.Contains(err.Error(), "expired") {
				t.Errorf("after its end: %v", err)
			}
		})
	}
}

// A resumed session skips the certificate message, and with it VerifyPeerCertificate. The pin must hold all the same, even for a
// session that another configuration accepted.
func TestResumptionDoesNotSkipPins(t *testing.T) {
	c := newClock()
	a, other := newAuthority(t, c), newAuthority(t, c)
	peer := mtls.Peer{Host: host, Now: c.now}
	agent, stranger := selfSigned(t, c, "node"), selfSigned(t, c, "stranger")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, row := range []struct {
			name         string
			server       mtls.Source
			right, wrong func() (*tls.Config, error)
		}{
			{"CA", serverSource(t, a), func() (*tls.Config, error) { return peer.PinCA(a.Pin()) }, func() (*tls.Config, error) { return peer.PinCA(other.Pin()) }},
			{"certificate", source(t, agent), func() (*tls.Config, error) { return peer.PinCertificate(agent.Certificate.Raw) },
				func() (*tls.Config, error) { return peer.PinCertificate(stranger.Certificate.Raw) }},
		} {
			t.Run(tls.VersionName(version)+" "+row.name, func(t *testing.T) {
				server := mtls.ServerConfig(row.server)
				server.MaxVersion = version
				address, _ := listen(t, server)
				right, wrong := config(t, row.right), config(t, row.wrong)
				for _, resumed := range []bool{false, true} {
					state, err := dial(address, right)
					if err != nil {
						t.Fatal(err)
					}
					if state.DidResume != resumed {
						t.Fatalf("resumed %v, want %v: the test does not test", state.DidResume, resumed)
					}
				}
				if right.ClientSessionCache == wrong.ClientSessionCache {
					t.Error("two peers share a session cache")
				}
				wrong.ClientSessionCache = right.ClientSessionCache
				if _, err := dial(address, wrong); !errors.Is(err, mtls.ErrPin) {
					t.Errorf("resumed under another pin: %v", err)
				}
			})
		}
	}
}

func TestServerSeesTheSamePeerInAResumedSession(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	clients := newClients(t, a.ClientCAs(), c)
	address, states := listen(t, mtls.ServerConfig(serverSource(t, a)))
	issued := issue(t, a, mtls.Request{Role: mtls.Operator, Name: "op", Lifetime: time.Hour})
	client := config(t, func() (*tls.Config, error) {
		return mtls.Peer{Host: host, Certificate: source(t, issued), Now: c.now}.TrustCA(a.ServerCAs())
	})
	for _, resumed := range []bool{false, true} {
		if _, err := dial(address, client); err != nil {
			t.Fatal(err)
		}
		state := <-states
		if role, _, ok := clients.RoleOf(&state); state.DidResume != resumed || !ok || role != mtls.Operator {
			t.Errorf("resumed %v: role %q", state.DidResume, role)
		}
	}
	c.pass(2 * time.Hour)
	if _, err := dial(address, client); err != nil {
		t.Fatal(err)
	}
	state := <-states
	if _, _, ok := clients.RoleOf(&state); ok {
		t.Error("a resumed session outlives the client's certificate")
	}
}

func TestAgentAdmitsOnlyClientsOfTheClientsCA(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	agent := selfSigned(t, c, "node")
	server, err := mtls.AgentConfig(source(t, agent), a.ClientCAs(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	address, _ := listen(t, server)
	for name, row := range map[string]struct {
		certificate mtls.Source
		admitted    bool
	}{
		"verifier":          {source(t, issue(t, a, mtls.Request{Role: mtls.VerifierClient, Name: "v"})), true},
		"another agent":     {source(t, issue(t, a, mtls.Request{Role: mtls.Agent, Name: "n"})), false},
		"self-signed":       {source(t, selfSigned(t, c, "x")), false},
		"without":           {nil, false},
		"server":            {serverSource(t, a), false},
		"other clients' CA": {source(t, issue(t, newAuthority(t, c), mtls.Request{Role: mtls.VerifierClient, Name: "v"})), false},
	} {
		t.Run(name, func(t *testing.T) {
			client := config(t, func() (*tls.Config, error) {
				return mtls.Peer{Certificate: row.certificate, Now: c.now}.PinCertificate(agent.Certificate.Raw)
			})
			if _, err := dial(address, client); (err == nil) != row.admitted {
				t.Errorf("admitted: %v", err)
			}
		})
	}
}

func TestServersRefuseOldTLS(t *testing.T) {
	c := newClock()
	a := newAuthority(t, c)
	address, _ := listen(t, mtls.ServerConfig(serverSource(t, a)))
	client := config(t, func() (*tls.Config, error) { return mtls.Peer{Host: host, Now: c.now}.TrustCA(a.ServerCAs()) })
	client.MinVersion, client.MaxVersion = tls.VersionTLS11, tls.VersionTLS11
	if _, err := dial(address, client); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestConfigsRefuseMissingParts(t *testing.T) {
	a := newAuthority(t, newClock())
	for name, make := range map[string]func() (*tls.Config, error){
		"bundle without host":  func() (*tls.Config, error) { return mtls.Peer{}.TrustCA(a.ServerCAs()) },
		"empty bundle":         func() (*tls.Config, error) { return mtls.Peer{Host: host}.TrustCA(nil) },
		"pin without host":     func() (*tls.Config, error) { return mtls.Peer{}.PinCA(a.Pin()) },
		"zero pin":             func() (*tls.Config, error) { return mtls.Peer{Host: host}.PinCA(attest.Digest{}) },
		"empty certificate":    func() (*tls.Config, error) { return mtls.Peer{Host: host}.PinCertificate(nil) },
		"agent without a CA":   func() (*tls.Config, error) { return mtls.AgentConfig(nil, nil, nil) },
		"clients' CA is empty": func() (*tls.Config, error) { _, err := mtls.NewClients(nil, nil); return nil, err },
	} {
		if _, err := make(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
