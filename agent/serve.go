package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/wire"
)

// Limits of the agent's ports.
const (
	headerTimeout  = 10 * time.Second
	answerTimeout  = 2 * time.Minute // a first list of many megabytes over a slow link
	idleTimeout    = 2 * time.Minute
	drainTimeout   = 10 * time.Second
	maxHeaderBytes = 16 << 10
	maxConnections = 64
)

// errUnannounced refuses handshakes until the server has said who may ask.
var errUnannounced = errors.New("the server has not said yet who may ask for quotes")

// serveQuotes answers verifiers until ctx ends.
func (a *Agent) serveQuotes(ctx context.Context, who self) error {
	if a.config.Keylime {
		if err := a.admit(who, a.secrets.clientCA); err != nil {
			return fmt.Errorf("key clientCA: %w", err)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if admitted := a.admitted.Load(); admitted != nil {
			return admitted.config, nil
		}
		return nil, errUnannounced
	}}
	handler := &pull{
		id: who.id, device: a.device, key: a.device.names(), transport: who.transport,
		list: a.list, bootLog: a.bootLog, metrics: a.metrics, log: a.log,
	}
	return a.serve(ctx, tls.NewListener(newLimited(a.quotes, maxConnections), config), a.onlyRoles(handler))
}

// admission is who may ask for quotes.
type admission struct {
	config *tls.Config
	// clients tells roles. It is nil facing Keylime, whose certificates have none.
	clients *mtls.Clients
}

// admit lets the holders of certificates of these CAs (PEM) ask for quotes from the next handshake on.
func (a *Agent) admit(who self, clientCAs []byte) error {
	config, err := mtls.AgentConfig(mtls.Fixed(who.certificate), clientCAs, a.env.Now)
	if err != nil {
		return err
	}
	admitted := &admission{config: config}
	if !a.config.Keylime {
		if admitted.clients, err = mtls.NewClients(clientCAs, a.env.Now); err != nil {
			return err
		}
	}
	a.admitted.Store(admitted)
	return nil
}

// onlyRoles refuses clients of the right CA whose role is another one: a viewer's certificate opens no machine's logs.
func (a *Agent) onlyRoles(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if clients := a.admitted.Load().clients; clients != nil {
			who, err := clients.Identify(r.TLS)
			if err == nil && who.Role != mtls.VerifierClient && who.Role != mtls.Administrator {
				err = fmt.Errorf("role %s may not ask for quotes", who.Role)
			}
			if err != nil {
				wire.WriteStatus(w, http.StatusForbidden, err.Error())
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// serveMetrics shows metrics and health until ctx ends.
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.numbers == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.env.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("ok\n")) // the peer may be gone: nobody to tell
	})
	return a.serve(ctx, newLimited(a.numbers, maxConnections), mux)
}

// serve runs a server and drains it when ctx ends.
func (a *Agent) serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: answerTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), // failed handshakes: anybody can cause them
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := server.Shutdown(drain)
	<-ended
	if err != nil {
		return fmt.Errorf("drain %s: %w", listener.Addr(), err)
	}
	return ctx.Err()
}
