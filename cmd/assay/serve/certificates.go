package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/mtls"
)

// credentials are what the server presents and whom it believes: of its own authority, or supplied from files.
type credentials struct {
	// server is presented on the ports, client towards agents and the registrar.
	server, client       mtls.Source
	serverCAs, clientCAs func() []byte
	pin                  func() attest.Digest
	// One of these is set.
	authority *mtls.Authority
	supplied  *mtls.Supplied
}

// identify finds the credentials.
func (s *server) identify() error {
	find := s.ownAuthority
	if s.options.Config.Certificates.set() {
		find = s.suppliedCertificates
	}
	if err := find(); err != nil {
		return err
	}
	var err error
	s.clients, err = mtls.NewClients(s.credentials.clientCAs(), nil)
	return err
}

func (s *server) suppliedCertificates() error {
	supplied, err := mtls.OpenSupplied(s.options.Config.Certificates.files(), nil)
	if err != nil {
		return err
	}
	s.credentials = credentials{
		supplied: supplied, server: supplied.Server, client: supplied.Client,
		serverCAs: supplied.ServerCAs, clientCAs: supplied.ClientCAs, pin: supplied.Pin,
	}
	return nil
}

// followEvery is the pause between two looks at supplied files. They are small, and a mounted Secret is replaced by a rename.
const followEvery = 5 * time.Second

// followFiles takes over supplied certificates that were replaced, until ctx ends. While they do not fit together, what was good before
// stays in use, and the log says why, once.
func (s *server) followFiles(ctx context.Context) error {
	if s.credentials.supplied == nil {
		return nil
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		changed, err := s.credentials.supplied.Reload()
		if err == nil && changed {
			err = s.clients.Replace(s.credentials.clientCAs())
			s.log.Info("took over new certificates", "pin", s.credentials.pin())
		}
		switch {
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			s.log.Error("the new certificates are not taken over", "err", err)
		}
	}
}

// readyLimit bounds the look at the database that a readiness probe waits for.
const readyLimit = 2 * time.Second

// ready answers a readiness probe: rounds are run, and the database can be read and written. Liveness is /healthz, which asks nothing of others.
func (s *server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyLimit)
	defer cancel()
	if err := s.store.Check(ctx); err != nil {
		// Anybody may ask here. What exactly is wrong, the log says, and the native API to those who may know.
		http.Error(w, "the database cannot be read or written", http.StatusServiceUnavailable)
		s.log.Warn("not ready", "err", err)
		return
	}
	if !s.verifier.Running() {
		http.Error(w, "rounds are not run yet, or no longer", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// ownAuthority makes or loads the CAs (C6) and, once, the first administrator's certificate.
func (s *server) ownAuthority() error {
	a, err := mtls.Open(s.state.Path("ca"), nil)
	if err != nil {
		return err
	}
	s.credentials = credentials{authority: a, serverCAs: a.ServerCAs, clientCAs: a.ClientCAs, pin: a.Pin}
	hosts := append([]string{"localhost", "127.0.0.1", "::1"}, s.options.Config.Names...)
	slices.Sort(hosts)
	if s.credentials.server, err = a.Renewing(mtls.Request{Role: mtls.Server, Name: "assay", Hosts: slices.Compact(hosts)}); err != nil {
		return err
	}
	if s.credentials.client, err = a.Renewing(mtls.Request{Role: mtls.VerifierClient, Name: "verifier"}); err != nil {
		return err
	}
	return s.firstAdministrator()
}

// firstAdministrator issues the certificate that the first person needs, at the first start only: later ones come from `assay cert issue`.
func (s *server) firstAdministrator() error {
	folder := s.state.Path("administrator")
	if _, err := os.Stat(folder); err == nil {
		return nil
	}
	issued, err := s.credentials.authority.Issue(mtls.Request{Role: mtls.Administrator, Name: "first administrator"})
	if err != nil {
		return err
	}
	// The folder appears as a whole or not at all.
	unfinished := s.state.Path("administrator.unfinished")
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("write the first administrator's certificate: %w", err)
	}
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		return fmt.Errorf("write the first administrator's certificate: %w", err)
	}
	for name, text := range map[string][]byte{"ca.pem": s.credentials.authority.ServerCAs(), "cert.pem": issued.CertPEM, "key.pem": issued.KeyPEM} {
		if err := durable.WriteFile(filepath.Join(unfinished, name), text, 0o600); err != nil {
			return err
		}
	}
	if err := os.Rename(unfinished, folder); err != nil {
		return fmt.Errorf("write the first administrator's certificate: %w", err)
	}
	if err := durable.SyncDir(s.options.Config.StateDir); err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(s.options.Config.Listen.API)
	fmt.Fprintf(s.options.Out, "The first administrator's certificate lies in %s. Use it with:\n\n  assay login https://localhost:%s --credentials %s\n\n", folder, port, folder)
	return nil
}

// issue signs a client certificate for a key that its owner made.
func (s *server) issue(_ context.Context, r api.CertificateRequest) (api.Certificate, error) {
	if s.credentials.authority == nil {
		return api.Certificate{}, errors.New("this server has no authority of its own: its certificates are supplied from files; whoever supplies them issues, in a cluster assay-operator")
	}
	role, err := mtls.ParseRole(r.Role)
	if err != nil {
		return api.Certificate{}, err
	}
	if !slices.Contains(mtls.ClientRoles(), role) {
		return api.Certificate{}, fmt.Errorf("role %s is not a client's", role)
	}
	lifetime := time.Duration(r.Lifetime * float64(time.Second))
	if lifetime < 0 || lifetime > 10*365*24*time.Hour {
		return api.Certificate{}, fmt.Errorf("lifetime of %v seconds is not 0 to ten years", r.Lifetime)
	}
	if r.Request == "" {
		return api.Certificate{}, errors.New("the certificate request is empty")
	}
	issued, err := s.credentials.authority.Issue(mtls.Request{Role: role, Name: r.Name, Lifetime: lifetime, CSR: []byte(r.Request)})
	if err != nil {
		return api.Certificate{}, err
	}
	return api.Certificate{Certificate: string(issued.CertPEM), ServerCA: string(s.credentials.authority.ServerCAs())}, nil
}
