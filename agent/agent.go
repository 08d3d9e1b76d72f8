package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/mtls"
)

// Environment is what an agent gets from the program that runs it. Zero values are safe.
type Environment struct {
	// Version is the program's, for heartbeats.
	Version string
	Log     *slog.Logger
	// Registry takes the agent's metrics and is what the metrics port shows. Nil makes a new one.
	Registry *prometheus.Registry
	// Now and Rand are the clock and the source of randomness; nil are the system's.
	Now  func() time.Time
	Rand io.Reader
}

func (e Environment) withDefaults() Environment {
	if e.Log == nil {
		e.Log = slog.New(slog.DiscardHandler)
	}
	if e.Registry == nil {
		e.Registry = prometheus.NewRegistry()
	}
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Rand == nil {
		e.Rand = rand.Reader
	}
	return e
}

// Agent is an attester with everything open that it needs rights for.
type Agent struct {
	config  Config
	secrets secrets
	env     Environment
	log     *slog.Logger
	metrics *metrics

	state   *durable.Dir
	device  *device // nil where there is no TPM
	noTPM   error   // why there is none
	list    *measurementList
	bootLog []byte
	quotes  net.Listener
	numbers net.Listener // metrics and health; nil where the configuration has none
	// findings is the preflight. New makes the checks that need rights; those of the keys follow in Run.
	findings []api.PreflightCheck

	// admitted is who may ask for quotes; nil until the server has said it.
	admitted atomic.Pointer[admission]
}

// New checks the configuration and opens what may need rights: the state directory, the TPM, the kernel's logs, the ports. It installs the IMA
// policy too, where the configuration says so. The errors name the thing and the configuration key.
func New(config Config, env Environment) (_ *Agent, err error) {
	if err := config.Check(); err != nil {
		return nil, err
	}
	env = env.withDefaults()
	a := &Agent{config: config, env: env, log: env.Log, metrics: newMetrics(env.Registry)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.secrets, err = config.readSecrets(); err != nil {
		return nil, err
	}
	if a.state, err = durable.Open(config.StateDir, stateVersion); err != nil {
		return nil, fmt.Errorf("%w (key stateDir)", err)
	}
	if a.device, err = openDevice(config.TPM, a.secrets.endorsementAuth); err != nil {
		if err = a.withoutTPM(err); err != nil {
			return nil, err
		}
	} else if err = a.openEvidence(); err != nil {
		return nil, err
	}
	if config.Metrics != "" {
		if a.numbers, err = listen(config.Metrics, "metrics"); err != nil {
			return nil, err
		}
	}
	here := thisMachine(config, a.facts())
	here.outcome = a.installPolicy()
	a.findings = here.examine()
	return a, nil
}

// openEvidence opens what quotes are answered with.
func (a *Agent) openEvidence() (err error) {
	if a.list, err = openList(a.config.IMAList); err != nil {
		return err
	}
	if a.bootLog, err = readBootLog(a.config.BootLog); err != nil {
		return err
	}
	a.quotes, err = listen(a.config.Listen, "listen")
	return err
}

// facts is what the TPM says of itself, or why there is none.
func (a *Agent) facts() tpmFacts {
	if a.device == nil {
		return tpmFacts{Err: a.noTPM}
	}
	return a.device.facts()
}

func listen(address, key string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w (key %s)", err, key)
	}
	return listener, nil
}

// warn logs what the preflight found missing.
func (a *Agent) warn() {
	for _, check := range a.findings {
		if check.Status != api.PreflightOK {
			a.log.Warn("preflight", "check", check.Name, "status", check.Status, "detail", check.Detail, "remedy", check.Remedy)
		}
	}
}

// Address is where the agent answers; nil without a TPM.
func (a *Agent) Address() net.Addr {
	if a.quotes == nil {
		return nil
	}
	return a.quotes.Addr()
}

// Close gives everything back that New opened. Run does it too.
func (a *Agent) Close() error {
	var errs []error
	for _, listener := range []net.Listener{a.quotes, a.numbers} {
		if listener == nil {
			continue
		}
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if a.list != nil {
		errs = append(errs, a.list.close())
	}
	if a.device != nil {
		errs = append(errs, a.device.Close())
	}
	if a.state != nil {
		errs = append(errs, a.state.Close())
	}
	return errors.Join(errs...)
}

// DropRights makes the whole process the configured user, without capabilities and without a way back. It is for a program of its own:
// whatever else runs in the process loses its rights too. Without a user the process keeps its identity and loses its capabilities.
func (a *Agent) DropRights() error {
	if os.Geteuid() == 0 && a.config.User != "" {
		to, err := lookupIdentity(a.config.User)
		if err != nil {
			return err
		}
		if err := handOver(a.config.StateDir, to); err != nil {
			return err
		}
		if err := become(to); err != nil {
			return err
		}
	} else if os.Geteuid() == 0 {
		a.log.Warn("staying root: the configuration names no user", "key", "user")
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	a.log.Info("rights dropped", "uid", os.Getuid(), "gid", os.Getgid())
	return nil
}

// Run registers, answers quotes and reports to the server until ctx ends, and closes the agent. It ends by itself only when the
// registrar refuses this machine (ErrRefused) or something that it stands on breaks. Without a TPM it only reports.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.device == nil {
		err = a.runBare(ctx)
	} else {
		err = a.runWithTPM(ctx)
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (a *Agent) runWithTPM(ctx context.Context) error {
	self, err := a.identify()
	if err != nil {
		return err
	}
	a.findings = a.refresh()
	a.warn()
	a.log.Info("agent", "agent", self.id, "listen", a.Address().String(), "contact", self.contact())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.serveQuotes(ctx, self) })
	group.Go(func() error { return a.serveMetrics(ctx) })
	group.Go(func() error { return a.follow(ctx, self) })
	return group.Wait()
}

// self is who the agent is, once its keys are there.
type self struct {
	id          attest.AgentID
	host        string // where it can be reached
	port        int
	certificate *tls.Certificate
	transport   []byte    // PEM of the public transport key
	dial        mtls.Peer // presents the certificate
}

func (s self) contact() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// identify loads or makes the keys, and finds where the agent can be reached.
func (a *Agent) identify() (self, error) {
	var who self
	if err := a.device.openKeys(keyRequest{kinds: a.config.kinds(), path: a.state.Path(fileAK), log: a.log}); err != nil {
		return who, err
	}
	who.id = a.config.ID
	if who.id == "" {
		who.id = a.device.ek.ID()
	}
	var err error
	if who.host, who.port, err = a.reachable(); err != nil {
		return who, err
	}
	keys := keyStore{state: a.state, rand: a.env.Rand, now: a.env.Now}
	if who.transport, err = keys.transportKey(); err != nil {
		return who, err
	}
	if who.certificate, err = keys.certificate(who.id, who.host); err != nil {
		return who, err
	}
	who.dial = mtls.Peer{Certificate: mtls.Fixed(who.certificate), Now: a.env.Now}
	return who, nil
}

// reachable returns what the registrar is told of where the agent answers.
func (a *Agent) reachable() (host string, port int, err error) {
	listening := a.quotes.Addr().(*net.TCPAddr)
	host, port = a.config.Contact.Address, a.config.Contact.Port
	if port == 0 {
		port = listening.Port
	}
	switch {
	case host != "":
	case !listening.IP.IsUnspecified():
		host = listening.IP.String()
	default:
		peer := a.config.serverAddress()
		if a.config.Keylime {
			_, peer, _ = strings.Cut(a.config.registrarURL(0), "://")
		}
		host, err = localAddress(peer)
	}
	return host, port, err
}

// trust makes the TLS configuration for the server: the configured CA decides, or else the join token's pin.
func (a *Agent) trust(peer mtls.Peer) (*tls.Config, error) {
	if len(a.secrets.serverCA) > 0 {
		return peer.TrustCA(a.secrets.serverCA)
	}
	return peer.PinCA(a.secrets.token.Pin)
}
