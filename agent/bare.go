package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/mtls"
	"github.com/assay-project/assay/tpm"
)

// withoutTPM decides whether an agent can run although the TPM did not open. It can where there is none, and something says who it is: on such a
// machine heartbeat and preflight tell the server what is missing, which an agent that ends does not. Any other trouble with the TPM is an error.
func (a *Agent) withoutTPM(err error) error {
	if !errors.Is(err, tpm.ErrNoTPM) || a.config.Keylime {
		return err
	}
	if a.secrets.token == nil && a.config.TokenFile == "" {
		return fmt.Errorf("%w; an agent without a TPM needs joinToken, or tokenFile in Kubernetes, to be seen as such", err)
	}
	a.noTPM = err
	return nil
}

// runBare is Run on a machine without a TPM: no keys, no port for quotes, no session; heartbeat and preflight only (C3).
func (a *Agent) runBare(ctx context.Context) error {
	who, err := a.nameBare()
	if err != nil {
		return err
	}
	a.warn()
	a.log.Warn("no TPM: nothing of this machine can be proven", "agent", who.id, "err", a.noTPM)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.serveMetrics(ctx) })
	group.Go(func() error {
		return a.retry(ctx, func(pause *backoff) error {
			server, _, err := a.meet(ctx, who)
			if err != nil {
				return err
			}
			defer server.client.CloseIdleConnections()
			return a.reportBare(ctx, server, pause)
		})
	})
	return group.Wait()
}

// nameBare finds a name, which the join token is then bound to, and a TLS key. In Kubernetes the name is for the log alone.
func (a *Agent) nameBare() (self, error) {
	host, err := os.Hostname()
	if err != nil {
		return self{}, fmt.Errorf("find this machine's name (or set id): %w", err)
	}
	who := self{id: a.config.ID, host: host}
	if who.id == "" {
		if who.id, err = attest.ParseAgentID(host); err != nil {
			return self{}, fmt.Errorf("the host name cannot be the agent's (set id): %w", err)
		}
	}
	keys := keyStore{state: a.state, rand: a.env.Rand, now: a.env.Now}
	if who.certificate, err = keys.certificate(who.id, who.host); err != nil {
		return self{}, err
	}
	who.dial = mtls.Peer{Certificate: mtls.Fixed(who.certificate), Now: a.env.Now}
	return who, nil
}

// reportBare sends preflight and heartbeats until one is refused. The preflight goes each time: the server keeps no session that would tell it is new.
func (a *Agent) reportBare(ctx context.Context, server *native, pause *backoff) error {
	for {
		who, bearer, err := a.credentials(server.id)
		if err != nil {
			return err
		}
		if err := server.report(ctx, bearer, api.PreflightRequest{Preflight: api.Preflight{Checks: a.refresh()}, Unproven: who}); err != nil {
			return fmt.Errorf("send preflight: %w", err)
		}
		err = server.beat(ctx, bearer, api.HeartbeatRequest{Heartbeat: a.heartbeat(), Unproven: who})
		a.metrics.heartbeats.WithLabelValues(outcome(err)).Inc()
		if err != nil {
			return fmt.Errorf("send heartbeat: %w", err)
		}
		pause.reset()
		if err := wait(ctx, time.Duration(a.config.Heartbeat)); err != nil {
			return err
		}
	}
}

// credentials are what an agent without a TPM has instead of a session: a projected token, or else a join token and a name.
func (a *Agent) credentials(name attest.AgentID) (who api.Unproven, bearer string, err error) {
	if a.config.TokenFile != "" {
		who.NodeToken, err = a.nodeToken()
		return who, "", err
	}
	return api.Unproven{Agent: name}, a.secrets.token.Credential(), nil
}

// nodeToken reads the projected token, or returns "" where the configuration names none. It is read for each use: kubelets rotate it.
func (a *Agent) nodeToken() (string, error) {
	if a.config.TokenFile == "" {
		return "", nil
	}
	file, err := os.Open(a.config.TokenFile)
	if err != nil {
		return "", fmt.Errorf("%w (key tokenFile; the user of key user reads it)", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, api.MaxNodeTokenBytes+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w (key tokenFile)", a.config.TokenFile, err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || len(text) > api.MaxNodeTokenBytes {
		return "", fmt.Errorf("%s does not hold a token of 1 to %d bytes (key tokenFile)", a.config.TokenFile, api.MaxNodeTokenBytes)
	}
	return token, nil
}
