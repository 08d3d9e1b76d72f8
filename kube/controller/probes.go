package controller

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// probeTimeout bounds what one who asks may take: the kubelet asks, and gives up after 5 s.
const probeTimeout = 5 * time.Second

// probes answers the kubelet while the operator waits and has no manager yet: it lives and is not ready. One that answered nothing would be killed for
// waiting. A nil one answers nobody.
type probes struct {
	server  *http.Server
	address string // HOST:PORT
	reason  atomic.Pointer[string]
}

// answerProbes listens where the manager will; "0" is nowhere.
func answerProbes(address string, log *slog.Logger) (*probes, error) {
	if address == "0" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", cmp.Or(address, server.DefaultBindAddress))
	if err != nil {
		return nil, fmt.Errorf("listen for probes at metrics: %q: %w", address, err)
	}
	p := &probes{address: listener.Addr().String()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		text := "the operator starts"
		if reason := p.reason.Load(); reason != nil {
			text = *reason
		}
		http.Error(w, text, http.StatusServiceUnavailable)
	})
	p.server = &http.Server{Handler: mux, ReadTimeout: probeTimeout, WriteTimeout: probeTimeout, MaxHeaderBytes: 16 << 10}
	go func() {
		if err := p.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("answer probes", "address", p.address, "err", err)
		}
	}()
	return p, nil
}

// waitsFor says what a probe for readiness is told.
func (p *probes) waitsFor(reason string) {
	if p != nil {
		p.reason.Store(&reason)
	}
}

// close frees the address for the manager.
func (p *probes) close() error {
	if p == nil {
		return nil
	}
	return p.server.Close()
}
