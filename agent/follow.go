package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/wire"
)

// Pauses between tries to reach a server. The first is short: at boot, agents and servers often start together.
const (
	firstPause   = time.Second
	longestPause = 2 * time.Minute
)

// follow keeps the agent known to its server: it learns whom to answer, registers, opens a session and sends heartbeats; whatever
// breaks is begun again after a pause. Facing a Keylime server it registers, and that is all.
//
// Before its certificate expires it makes another one of the same key and begins anew with that: servers accept an agent under the exact
// certificate that it registered.
func (a *Agent) follow(ctx context.Context, who self) error {
	for {
		current, cancel := context.WithCancelCause(ctx)
		go a.watchCertificate(current, who.certificate.Leaf, cancel)
		err := a.followAs(current, who)
		cancel(nil)
		if !errors.Is(context.Cause(current), errExpires) || ctx.Err() != nil {
			return err
		}
		if who, err = a.renew(who); err != nil {
			return err
		}
	}
}

// followAs follows under one certificate.
func (a *Agent) followAs(ctx context.Context, who self) error {
	registered := false
	err := a.retry(ctx, func(pause *backoff) error { return a.attempt(ctx, who, &registered, pause) })
	if err != nil {
		return err
	}
	<-ctx.Done() // facing a Keylime server, nothing is left to do
	return ctx.Err()
}

// errExpires ends what runs under a certificate that is about to expire.
var errExpires = errors.New("the agent's certificate is about to expire")

// watchCertificate looks once per heartbeat: a timer of years would not notice that the clock was set.
func (a *Agent) watchCertificate(ctx context.Context, leaf *x509.Certificate, expired context.CancelCauseFunc) {
	for !expires(leaf, a.env.Now()) {
		if wait(ctx, time.Duration(a.config.Heartbeat)) != nil {
			return
		}
	}
	expired(errExpires)
}

// renew makes the next certificate and answers under it from the next handshake on.
func (a *Agent) renew(who self) (self, error) {
	keys := keyStore{state: a.state, rand: a.env.Rand, now: a.env.Now}
	var err error
	if who.certificate, err = keys.certificate(who.id, who.host); err != nil {
		return who, err
	}
	who.dial.Certificate = mtls.Fixed(who.certificate)
	a.log.Info("certificate renewed", "agent", who.id, "until", who.certificate.Leaf.NotAfter)
	if !a.config.Keylime {
		return who, nil // admitted again with what the server says next
	}
	if err := a.admit(who, a.secrets.clientCA); err != nil {
		return who, fmt.Errorf("key clientCA: %w", err)
	}
	return who, nil
}

// retry makes attempts, with pauses, until one ends well, the registrar refuses this machine or ctx ends.
func (a *Agent) retry(ctx context.Context, attempt func(*backoff) error) error {
	pause := backoff{first: firstPause, limit: longestPause}
	for {
		err := attempt(&pause)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, ErrRefused):
			return err
		case err == nil:
			return nil
		}
		span := pause.next()
		a.log.Warn("reach the server", "err", err, "again", span.Round(time.Millisecond))
		if err := wait(ctx, span); err != nil {
			return err
		}
	}
}

// attempt goes as far as it gets: through registration once per start and whenever the server does not know the agent, then
// through heartbeats until one fails.
func (a *Agent) attempt(ctx context.Context, who self, registered *bool, pause *backoff) error {
	if a.config.Keylime {
		return a.registerAt(ctx, who, a.config.registrarURL(0), a.trust)
	}
	server, bootstrap, err := a.meet(ctx, who)
	if err != nil {
		return err
	}
	defer server.client.CloseIdleConnections()
	if !*registered {
		trust := func(peer mtls.Peer) (*tls.Config, error) { return peer.TrustCA([]byte(bootstrap.ServerCAs)) }
		if err := a.registerAt(ctx, who, a.config.registrarURL(bootstrap.RegistrarPort), trust); err != nil {
			return err
		}
		*registered = true
	}
	token, err := a.open(ctx, server)
	if err != nil {
		*registered = !unknownToServer(err)
		return fmt.Errorf("open a session: %w", err)
	}
	return a.report(ctx, server, token, pause)
}

// meet asks the server for its CAs and takes over who may ask this agent for quotes.
func (a *Agent) meet(ctx context.Context, who self) (*native, api.Bootstrap, error) {
	address := a.config.serverAddress()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, api.Bootstrap{}, fmt.Errorf("server (key server): %w", err)
	}
	peer := who.dial
	peer.Host = host
	config, err := a.trust(peer)
	if err != nil {
		return nil, api.Bootstrap{}, err
	}
	server := &native{
		caller: caller{base: "https://" + address, client: newHTTPClient(&http.Transport{TLSClientConfig: config})},
		id:     who.id, key: mtls.KeyDigest(who.certificate.Leaf), tpm: a.device,
	}
	bootstrap, err := server.bootstrap(ctx)
	if err != nil {
		return nil, bootstrap, err
	}
	if err := a.admit(who, []byte(bootstrap.ClientCAs)); err != nil {
		return nil, bootstrap, fmt.Errorf("server %s: %w", address, err)
	}
	return server, bootstrap, nil
}

// registerAt registers with the registrar at a base URL.
func (a *Agent) registerAt(ctx context.Context, who self, base string, trust func(mtls.Peer) (*tls.Config, error)) error {
	transport := &http.Transport{}
	if address, found := strings.CutPrefix(base, "https://"); found {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return fmt.Errorf("registrar (key registrar): %w", err)
		}
		peer := who.dial
		peer.Host = host
		if transport.TLSClientConfig, err = trust(peer); err != nil {
			return err
		}
	}
	client := newHTTPClient(transport)
	defer client.CloseIdleConnections()
	approval, err := register(ctx, caller{base: base, client: client}, a.registration(who), a.device)
	a.metrics.registrations.WithLabelValues(outcome(err)).Inc()
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if approval != "" {
		a.log.Warn("registered, but a person has to approve this agent at the server", "agent", who.id, "reason", approval)
	}
	a.log.Info("registered", "agent", who.id, "registrar", base)
	return nil
}

func (a *Agent) registration(who self) registration {
	body := wire.RegisterRequest{
		EK: a.device.ek.Public(), EKCert: a.device.chain, AIK: a.device.ak.Key().Public(),
		IP: who.host, Port: who.port, Certificate: string(encodeCertificate(who.certificate.Leaf)),
	}
	if a.secrets.token != nil {
		body.JoinToken = a.secrets.token.Credential()
	}
	return registration{id: who.id, body: body}
}

// open opens a session and, in Kubernetes, claims the node that the agent runs on.
func (a *Agent) open(ctx context.Context, server *native) (api.SessionToken, error) {
	nodeToken, err := a.nodeToken()
	if err != nil {
		return api.SessionToken{}, err
	}
	return server.open(ctx, nodeToken)
}

// report sends the preflight, and heartbeats until one fails. The first that is taken ends the pauses: a session alone is no success, for its
// heartbeats are refused while the claim to a node is.
func (a *Agent) report(ctx context.Context, server *native, token api.SessionToken, pause *backoff) error {
	var sent []api.PreflightCheck
	for {
		checks := a.refresh()
		if !slices.Equal(sent, checks) {
			if err := server.report(ctx, token.Token, api.PreflightRequest{Preflight: api.Preflight{Checks: checks}}); err != nil {
				return fmt.Errorf("send preflight: %w", err)
			}
			sent = checks
		}
		err := server.beat(ctx, token.Token, api.HeartbeatRequest{Heartbeat: a.heartbeat()})
		a.metrics.heartbeats.WithLabelValues(outcome(err)).Inc()
		if err != nil {
			return fmt.Errorf("send heartbeat: %w", err)
		}
		pause.reset()
		if err := wait(ctx, time.Duration(a.config.Heartbeat)); err != nil {
			return err
		}
		if a.env.Now().Add(2 * time.Duration(a.config.Heartbeat)).Before(token.Expires) {
			continue
		}
		if token, err = a.open(ctx, server); err != nil {
			return fmt.Errorf("renew the session: %w", err)
		}
	}
}

// refresh makes those checks again that need no rights any more and may change while the agent runs.
func (a *Agent) refresh() []api.PreflightCheck {
	m := machine{tpm: a.facts()}
	checks := slices.Clone(a.findings)
	for _, fresh := range []api.PreflightCheck{m.checkTPM(), m.checkBanks(), m.checkCertificate()} {
		for i := range checks {
			if checks[i].Name == fresh.Name {
				checks[i] = fresh
			}
		}
	}
	return checks
}

func (a *Agent) heartbeat() api.Heartbeat {
	beat := api.Heartbeat{Version: a.env.Version, Kernel: kernelRelease()}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		beat.Uptime = int64(info.Uptime)
	}
	return beat
}

// kernelRelease is uname -r.
func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

// localAddress returns the address of this machine that a packet to the server would carry.
func localAddress(server string) (string, error) {
	// Connecting a UDP socket chooses a route and sends nothing.
	conn, err := net.Dial("udp", server)
	if err != nil {
		return "", fmt.Errorf("find this machine's address (or set contact.address): %w", err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String(), nil
}
