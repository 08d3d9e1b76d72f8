package serve_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/internal/mtls"
)

// cluster is what an operator keeps for a server: authorities, and the files that are mounted.
type cluster struct {
	t   *testing.T
	dir string
	cfg serve.Config
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, dir: t.TempDir(), cfg: serve.Default()}
	c.cfg.StateDir = filepath.Join(c.dir, "state")
	c.cfg.Listen = serve.Listen{API: freeAddress(t), Registrar: freeAddress(t), Metrics: freeAddress(t)}
	c.cfg.Certificates = serve.Certificates{
		Server: serve.Pair{Certificate: c.at("server.crt"), Key: c.at("server.key")}, Client: serve.Pair{Certificate: c.at("client.crt"), Key: c.at("client.key")},
		ServerCAs: c.at("server-ca.pem"), ClientCAs: c.at("client-ca.pem"),
	}
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (c *cluster) at(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.at(name), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) authority(name string) *mtls.Authority {
	c.t.Helper()
	a, err := mtls.Create(c.at(name), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

// supply writes certificates of an authority, and bundles of several.
func (c *cluster) supply(a *mtls.Authority, bundles ...*mtls.Authority) {
	c.t.Helper()
	for name, r := range map[string]mtls.Request{
		"server": {Role: mtls.Server, Name: "assay", Hosts: []string{"assay.assay.svc", "127.0.0.1"}}, "client": {Role: mtls.VerifierClient, Name: "verifier"},
	} {
		issued, err := a.Issue(r)
		if err != nil {
			c.t.Fatal(err)
		}
		c.write(name+".crt", issued.CertPEM)
		c.write(name+".key", issued.KeyPEM)
	}
	var servers, clients []byte
	for _, b := range bundles {
		servers, clients = append(servers, b.ServerCAs()...), append(clients, b.ClientCAs()...)
	}
	c.write("server-ca.pem", servers)
	c.write("client-ca.pem", clients)
}

// as is a client of the native API with a role of an authority.
func (c *cluster) as(a *mtls.Authority, role mtls.Role) *client.Client {
	c.t.Helper()
	issued, err := a.Issue(mtls.Request{Role: role, Name: "some " + string(role)})
	if err != nil {
		c.t.Fatal(err)
	}
	certificate, err := issued.TLS()
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := mtls.Peer{Host: "assay.assay.svc", Certificate: mtls.Fixed(certificate)}.TrustCA(a.ServerCAs())
	if err != nil {
		c.t.Fatal(err)
	}
	server, err := client.New(client.Config{URL: "https://" + c.cfg.Listen.API, TLS: config, Timeout: 5 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	return server
}

// start runs the server until stop or the end of the test.
func (c *cluster) start() {
	c.t.Helper()
	if err := c.cfg.Check(); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serve.Run(ctx, serve.Options{Config: c.cfg, Version: "test", Out: c.t.Output(), Log: c.t.Output()})
	}()
	c.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
	})
	c.eventually("ready", func() error {
		status, text := c.probe("/readyz")
		if status != http.StatusOK {
			return fmt.Errorf("%d %s", status, text)
		}
		return nil
	})
}

func (c *cluster) probe(path string) (int, string) {
	answer, err := http.Get("http://" + c.cfg.Listen.Metrics + path)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text)
}

func (c *cluster) eventually(what string, try func() error) {
	c.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// A server whose certificates are supplied issues none, tells agents what it was given, and takes over a rotation without a restart.
func TestSuppliedCertificates(t *testing.T) {
	c := newCluster(t)
	old := c.authority("old")
	c.supply(old, old)
	c.start()
	admin := c.as(old, mtls.Administrator)
	if status, text := c.probe("/healthz"); status != http.StatusOK {
		t.Errorf("healthz: %d %s", status, text)
	}
	if _, err := os.Stat(filepath.Join(c.cfg.StateDir, "administrator")); err == nil {
		t.Error("a server without an authority made an administrator")
	}
	if _, err := admin.IssueCertificate(t.Context(), api.CertificateRequest{Role: "viewer", Name: "guest", Request: "x"}); err == nil || !strings.Contains(err.Error(), "in a cluster assay-operator") {
		t.Errorf("cert issue: %v", err)
	}
	// The verifier asks the registrar under the supplied certificate.
	if agents, err := admin.Registered(t.Context()); err != nil || len(agents) != 0 {
		t.Errorf("registered: %v, %v", agents, err)
	}
	pin := func(server *client.Client) string {
		token, err := server.CreateToken(t.Context(), api.TokenRequest{})
		if err != nil {
			return err.Error()
		}
		parsed, err := api.ParseJoinToken(token.Text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed.Pin.String()
	}
	if got := pin(admin); got != old.Pin().String() {
		t.Errorf("join tokens pin %s, want %s", got, old.Pin())
	}
	next := c.authority("next")
	c.supply(next, old, next)
	admin2 := c.as(next, mtls.Administrator)
	c.eventually("the rotation", func() error {
		if got := pin(admin2); got != next.Pin().String() {
			return fmt.Errorf("join tokens pin %s, want %s", got, next.Pin())
		}
		return nil
	})
	if _, err := admin2.Registered(t.Context()); err != nil {
		t.Errorf("registered, after the rotation: %v", err)
	}
	if _, err := admin.Nodes(t.Context()); err != nil { // its connection is open, and its authority still in the bundle
		t.Errorf("a client of the old authority: %v", err)
	}
	c.supply(next, next)
	c.eventually("the end of the old authority", func() error {
		if _, err := admin.Nodes(t.Context()); err == nil {
			return fmt.Errorf("a client of the old authority is still let in")
		}
		return nil
	})
}

func TestSuppliedCertificatesThatDoNotFit(t *testing.T) {
	c := newCluster(t)
	old := c.authority("old")
	c.supply(old, c.authority("other"))
	err := serve.Run(t.Context(), serve.Options{Config: c.cfg, Version: "test", Out: io.Discard, Log: io.Discard})
	if err == nil || !strings.Contains(err.Error(), c.at("server.crt")) || !strings.Contains(err.Error(), c.at("client.crt")) {
		t.Errorf("got %v, want both files named", err)
	}
}

func TestConfigNamesMissingFiles(t *testing.T) {
	cfg := serve.Default()
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	cfg.Certificates.Server.Certificate, cfg.Certificates.ClientCAs = "a", "b"
	err := cfg.Check()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"certificates.server.key: is empty", "certificates.client.certificate: is empty", "certificates.client.key: is empty", "certificates.serverCAs: is empty"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
