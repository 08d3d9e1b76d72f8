package scale

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/sqlstore/sqlstoretest"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/httpapi"
)

// server is the control plane in this process, on a port of the loopback.
type server struct {
	address string
	api     *httpapi.API
	count   *counting
	admin   *client.Client
	// operator is what the operator's Secret holds.
	operator map[string][]byte
}

func startServer(t testing.TB, f *fleet, interval time.Duration) *server {
	t.Helper()
	authority, err := mtls.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	store := sqlstoretest.Open(t)
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	v, err := verifier.New(verifier.Config{
		Store: store.Nodes(), Evidence: store.Nodes(), Policies: store.Policies(), Reactions: store.Reactions(), Collector: f, Registrar: f, Interval: interval, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := mtls.NewClients(authority.ClientCAs(), nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{api: httpapi.New(httpapi.Config{
		Verifier: v, Evidence: store.Nodes(), Policies: store.Policies(), Roots: store.Roots(), Tokens: store.Tokens(), Bindings: store.Bindings(), Keys: store.Roots(),
		Registrar: f, Issue: issuesNothing, Clients: clients, Pin: authority.Pin, Bootstrap: func() api.Bootstrap { return api.Bootstrap{} },
		AllowFirstUse: true, Roles: []string{"verifier"}, Log: log,
	})}
	s.count = &counting{next: s.api}
	s.listen(t, authority, v)
	s.people(t, authority, f)
	return s
}

func issuesNothing(context.Context, api.CertificateRequest) (api.Certificate, error) {
	return api.Certificate{}, errors.New("no certificates are issued here")
}

func (s *server) listen(t testing.TB, authority *mtls.Authority, v *verifier.Verifier) {
	t.Helper()
	source, err := authority.Renewing(mtls.Request{Role: mtls.Server, Name: "assay", Hosts: []string{"127.0.0.1"}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	listening := &http.Server{
		Handler: s.count, TLSConfig: mtls.ServerConfig(source), ReadHeaderTimeout: 20 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- listening.ServeTLS(listener, "", "") }()
	go func() { ran <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		_ = listening.Close()
		<-served
	})
}

// people issues the certificates of an administrator, of the operator and of the agents.
func (s *server) people(t testing.TB, authority *mtls.Authority, f *fleet) {
	t.Helper()
	issue := func(r mtls.Request) mtls.Issued {
		issued, err := authority.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		return issued
	}
	operator := issue(mtls.Request{Role: mtls.Operator, Name: "operator"})
	s.operator = map[string][]byte{"tls.crt": operator.CertPEM, "tls.key": operator.KeyPEM, "ca.crt": authority.ServerCAs()}
	pair, err := issue(mtls.Request{Role: mtls.Administrator, Name: "administrator"}).TLS()
	if err != nil {
		t.Fatal(err)
	}
	config, err := mtls.Peer{Host: "127.0.0.1", Certificate: mtls.Fixed(pair)}.TrustCA(authority.ServerCAs())
	if err != nil {
		t.Fatal(err)
	}
	if s.admin, err = client.New(client.Config{URL: "https://" + s.address, TLS: config}); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issue(mtls.Request{Role: mtls.Agent, Name: "agents", Hosts: []string{"127.0.0.1"}}).CertPEM)
	if f.peer, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
}

var (
	_ verifier.Collector = (*fleet)(nil)
	_ verifier.Registrar = (*fleet)(nil)
)
