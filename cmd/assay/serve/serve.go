package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/endorsement"
	"github.com/assay-project/assay/endorsement/vendors"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/httpjson"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/registrar"
	"github.com/assay-project/assay/sqlstore"
	"github.com/assay-project/assay/verifier"
	"github.com/assay-project/assay/verifier/httpapi"
	"github.com/assay-project/assay/verifier/identity"
	"github.com/assay-project/assay/verifier/pull"
)

// Options of Run.
type Options struct {
	Config  Config
	Version string
	// Out gets what a person needs at a first start, Log the log.
	Out, Log io.Writer
}

// stateVersion names the layout of the state directory.
const stateVersion = "assay-server 1"

// ErrState says that the state directory or the database in it cannot be opened. Whoever runs the server has to see to its volume. That another
// process has it open, or that ctx ended meanwhile, is no such error.
var ErrState = errors.New("the server's state cannot be opened")

// Run serves until ctx ends, then drains. A state directory in use is durable.ErrLocked.
func Run(ctx context.Context, o Options) (err error) {
	state, err := durable.Open(o.Config.StateDir, stateVersion)
	if errors.Is(err, durable.ErrLocked) {
		return err // the state is well, and another server's
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	s := &server{options: o, state: state, log: newLog(o), registry: prometheus.NewRegistry()}
	if err := s.identify(); err != nil {
		return err
	}
	if s.store, err = sqlstore.Open(ctx, sqlstore.Config{Path: state.Path("assay.db")}); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("told to end while opening the database: %w", ctx.Err())
		}
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	if err := s.assemble(); err != nil {
		return err
	}
	return s.serve(ctx)
}

func newLog(o Options) *slog.Logger {
	level := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}[o.Config.LogLevel]
	return slog.New(slog.NewTextHandler(o.Log, &slog.HandlerOptions{Level: level}))
}

// server is the assembled control plane.
type server struct {
	options  Options
	state    *durable.Dir
	log      *slog.Logger
	registry *prometheus.Registry

	credentials credentials
	clients     *mtls.Clients
	store       *sqlstore.DB
	endorsers   verifier.RootStore
	registrar   *registrar.Registrar
	verifier    *verifier.Verifier
	api         *httpapi.API
}

// roots gives registrar and native API the accepted vendor roots as they are now.
func (s *server) roots(ctx context.Context) (*endorsement.Roots, error) {
	accepted, err := verifier.LoadEndorsement(ctx, s.endorsers, s.store.Roots())
	return accepted.Roots, err
}

// rootStore is the store of vendor roots, with those that the program brings along unless the configuration says otherwise.
func (s *server) rootStore() (verifier.RootStore, error) {
	if !s.options.Config.VendorRoots {
		return s.store.Roots(), nil
	}
	certificates, err := vendors.All()
	if err != nil {
		return nil, err
	}
	var bundled []verifier.Root
	for _, c := range certificates {
		bundled = append(bundled, verifier.Root{
			Fingerprint: c.Fingerprint, Subject: c.Certificate.Subject.String(), NotAfter: c.Certificate.NotAfter, PEM: c.PEM, Origin: verifier.OriginBundled,
		})
	}
	return verifier.NewVendorRoots(s.store.Roots(), s.store.Roots(), bundled, time.Now), nil
}

func (s *server) assemble() error {
	cfg := s.options.Config
	var err error
	if s.endorsers, err = s.rootStore(); err != nil {
		return err
	}
	s.registrar, err = registrar.New(registrar.Config{
		Store: s.store.Registrations(), Tokens: s.store.Tokens(), Roots: s.roots, Role: s.clients.RoleOf,
		AllowReimage: func(id attest.AgentID) bool { return s.verifier.AllowsReimage(id) }, Log: s.log.With("role", "registrar"), Metrics: s.registry,
	})
	if err != nil {
		return err
	}
	asked, port, err := s.registrarClient()
	if err != nil {
		return err
	}
	s.verifier, err = verifier.New(verifier.Config{
		Registrar: asked, Roots: s.endorsers, Keys: s.store.Roots(), Reimage: api.Reimage(cfg.Reimage),
		Retention: verifier.Retention{Store: s.store.Retention(), Evidence: time.Duration(cfg.Evidence.Retention), Sweep: s.sweep},
		Store:     s.store.Nodes(), Evidence: s.store.Nodes(), Policies: s.store.Policies(), Collector: pull.New(s.credentials.client, nil),
		Reactions: s.store.Reactions(), ContainerIMAPolicies: []attest.Digest{attest.SHA256.Sum(ima.ContainersPolicy())},
		Interval: time.Duration(cfg.Interval), Log: s.log.With("role", "verifier"), Metrics: s.registry,
	})
	if err != nil {
		return err
	}
	s.nativeAPI(asked, port)
	return nil
}

// sweep deletes what expired of registrations: the registrar itself does so only when an agent registers.
func (s *server) sweep(ctx context.Context, now time.Time) error {
	_, err := s.store.Registrations().Sweep(ctx, now)
	return err
}

// registrarClient asks the registrar over its v2 admin API, in one process too.
func (s *server) registrarClient() (*verifier.RegistrarClient, int, error) {
	cfg := s.options.Config
	host, port, err := net.SplitHostPort(cfg.Listen.Registrar)
	if err != nil {
		return nil, 0, fmt.Errorf("listen.registrar: %w", err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, 0, fmt.Errorf("listen.registrar: port %q: %w", port, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	config := mtls.Peer{Host: "localhost", Certificate: s.credentials.client}.PinSource(s.credentials.server)
	return verifier.NewRegistrarClient("https://"+net.JoinHostPort(host, port), config), number, nil
}

func (s *server) nativeAPI(asked *verifier.RegistrarClient, registrarPort int) {
	cfg := s.options.Config
	s.api = httpapi.New(httpapi.Config{
		Verifier: s.verifier, Evidence: s.store.Nodes(), Policies: s.store.Policies(), Roots: s.endorsers, Tokens: s.store.Tokens(),
		Bindings: s.store.Bindings(), Keys: s.store.Roots(), Redeem: s.redeem,
		Registrar: asked,
		Pending:   pending{s.registrar}, Issue: s.issue, Clients: s.clients, Pin: s.credentials.pin,
		Bootstrap: func() api.Bootstrap {
			return api.Bootstrap{RegistrarPort: registrarPort, ServerCAs: string(s.credentials.serverCAs()), ClientCAs: string(s.credentials.clientCAs())}
		},
		Database:      s.store.Check,
		AllowFirstUse: cfg.Endorsement == "AllowFirstUse", Roles: cfg.Roles, Version: s.options.Version, Log: s.log.With("role", "api"),
	})
}

// redeem binds a join token to the name of an agent without a TPM, in the verifier's words.
func (s *server) redeem(ctx context.Context, token string, secret []byte, agent attest.AgentID) error {
	err := s.store.Tokens().Redeem(ctx, token, secret, agent)
	if errors.Is(err, registrar.ErrToken) {
		return fmt.Errorf("%w: join token %q is not valid for agent %q: it is unknown, has expired, or was used by another agent", identity.ErrSession, token, agent)
	}
	return err
}

// drain is how long requests under way may take after the signal to end.
const drain = 10 * time.Second

// How fast a request's body has to come: the largest, a policy of 64 MiB, in 17 minutes, and what strangers may send in one.
const (
	bodyGrace = 20 * time.Second
	bodyRate  = 64 << 10 // bytes per second
)

// serve listens on everything before it serves anything, so that a port in use is a clear error and nothing has happened.
func (s *server) serve(ctx context.Context) error {
	cfg := s.options.Config
	metrics := http.NewServeMux()
	metrics.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}))
	metrics.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	metrics.HandleFunc("GET /readyz", s.ready)
	ports := []port{
		{name: "native API", address: cfg.Listen.API, handler: s.api, tls: true},
		{name: "registrar", address: cfg.Listen.Registrar, handler: s.registrar.Handler(), tls: true},
		{name: "metrics", address: cfg.Listen.Metrics, handler: metrics},
	}
	if cfg.KeylimeAgents {
		ports = append(ports, port{name: "plain registrar", address: cfg.Listen.Plain, handler: s.registrar.PlainHandler()})
	}
	ports = slices.DeleteFunc(ports, func(p port) bool { return p.address == "" })
	limit := newConnections(connectionLimit(), s.log)
	group, ctx := errgroup.WithContext(ctx)
	for i := range ports {
		ports[i].pace, ports[i].limit = httpjson.Pace{Grace: bodyGrace, BytesPerSecond: bodyRate}, limit
		if err := ports[i].listen(); err != nil {
			for _, open := range ports[:i] {
				open.listener.Close()
			}
			return err
		}
	}
	for _, p := range ports {
		p.serve(ctx, group, s)
	}
	group.Go(func() error { return s.verifier.Run(ctx) })
	group.Go(func() error { return s.followFiles(ctx) })
	s.log.Info("serving", "version", s.options.Version, "api", cfg.Listen.API, "registrar", cfg.Listen.Registrar)
	return group.Wait()
}

// port is one listening address.
type port struct {
	name, address string
	handler       http.Handler
	tls           bool
	pace          httpjson.Pace
	limit         *connections
	listener      net.Listener
}

func (p *port) listen() error {
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.listener = p.limit.listener(listener)
	return nil
}

func (p port) serve(ctx context.Context, group *errgroup.Group, s *server) {
	h := &http.Server{
		Handler: p.pace.Handler(p.handler), ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), BaseContext: func(net.Listener) context.Context { return ctx },
	}
	group.Go(func() error {
		var err error
		if p.tls {
			h.TLSConfig = mtls.ServerConfig(s.credentials.server)
			err = h.ServeTLS(p.listener, "", "")
		} else {
			err = h.Serve(p.listener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("%s: %w", p.name, err)
	})
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if err := h.Shutdown(end); err != nil {
			return h.Close()
		}
		return nil
	})
}

// pending offers the registrar's waiting registrations to the native API, in its words.
type pending struct{ registrar *registrar.Registrar }

func (p pending) Pending(ctx context.Context) ([]api.Pending, error) { return p.registrar.Pending(ctx) }

func (p pending) Approve(ctx context.Context, id attest.AgentID) error {
	err := p.registrar.Approve(ctx, id)
	if errors.Is(err, registrar.ErrNotFound) {
		return fmt.Errorf("%w: %w", verifier.ErrNotFound, err)
	}
	return err
}
