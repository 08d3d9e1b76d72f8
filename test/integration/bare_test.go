package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/agent"
	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/conf"
)

// bare is the configuration of an agent on a machine without a TPM.
func (w *world) bare() agent.Config {
	config := agent.DefaultConfig()
	config.Server, config.TPM, config.StateDir = w.config.Listen.API, filepath.Join(w.t.TempDir(), "no-tpm"), filepath.Join(w.t.TempDir(), "agent")
	config.Listen, config.Metrics, config.Heartbeat = freeAddress(w.t), "", conf.Duration(time.Second)
	return config
}

func (w *world) run(config agent.Config) {
	w.t.Helper()
	a, err := agent.New(config, agent.Environment{Version: "test"})
	if err != nil {
		w.t.Fatal(err)
	}
	background(w.t, func(ctx context.Context) error { return a.Run(ctx) })
}

// operator is a client with a certificate of that role, as `assay cert issue` makes it.
func (w *world) operator() *client.Client {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "operator"}}, key)
	if err != nil {
		w.t.Fatal(err)
	}
	issued, err := w.admin.IssueCertificate(w.t.Context(), api.CertificateRequest{
		Role: "operator", Name: "operator", Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.t.Fatal(err)
	}
	folder := w.t.TempDir()
	for name, text := range map[string]string{
		"ca.pem": issued.ServerCA, "cert.pem": issued.Certificate, "key.pem": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	c, err := client.FromFolder("https://"+w.config.Listen.API, folder)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// A machine without a TPM is seen, as Unappraised and as nothing else, under the name that its join token is for.
func TestWithoutTPM(t *testing.T) {
	w := newWorld(t)
	token, err := w.admin.CreateToken(t.Context(), api.TokenRequest{Lifetime: 3600})
	if err != nil {
		t.Fatal(err)
	}
	config := w.bare()
	config.JoinToken, config.ID = conf.Secret(token.Text), "printer-1"
	w.run(config)
	n := w.verdict("printer-1", attest.Unappraised)
	if n.TpmPresent || n.Reason != api.ReasonNoTpm || n.Heartbeat == nil {
		t.Errorf("node %+v", n)
	}
	if _, err := w.admin.Enrol(t.Context(), api.EnrolRequest{ID: "printer-1"}); !client.NotFound(err) {
		t.Errorf("it can be enrolled: %v", err)
	}
	if err := w.admin.RevokeToken(t.Context(), token.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.admin.RemoveNode(t.Context(), "printer-1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second) // two heartbeats
	if _, err := w.admin.Node(t.Context(), "printer-1"); !client.NotFound(err) {
		t.Errorf("a revoked token brings it back: %v", err)
	}
}

// In Kubernetes a machine with a TPM and one without claim their nodes, and the operator answers.
func TestClaims(t *testing.T) {
	w := newWorld(t)
	operator := w.operator()
	tokens := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokens, []byte("token.of.worker-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := w.newHost()
	h.config.TokenFile = tokens
	h.start()
	id := w.registered(1)[0]
	w.enrol(h, id)
	answer := func(node string, want int) error {
		t.Helper()
		var claims []api.Claim
		w.eventually("a claim", func() bool {
			var err error
			claims, err = operator.Claims(t.Context())
			return err == nil && len(claims) == want
		})
		return operator.AnswerClaim(t.Context(), claims[0].ID, api.ClaimAnswer{
			Accepted: true, Node: &api.KubernetesNode{Name: node, UID: "uid-of-" + node}, Expires: time.Now().Add(time.Hour),
		})
	}
	if _, err := w.admin.Claims(t.Context()); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("an administrator reads claims: %v", err)
	}
	if err := answer("worker-1", 1); err != nil {
		t.Fatal(err)
	}
	if n := w.verdict(id, attest.Trusted); n.KubernetesNode == nil || n.KubernetesNode.Name != "worker-1" {
		t.Errorf("node %+v", n.KubernetesNode)
	}

	config := w.bare()
	config.CA, config.TokenFile = h.config.CA, filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(config.TokenFile, []byte("token.of.worker-2"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(config)
	if err := answer("worker-2", 1); err != nil {
		t.Fatal(err)
	}
	n := w.verdict("uid-of-worker-2", attest.Unappraised)
	if n.KubernetesNode == nil || n.KubernetesNode.Name != "worker-2" || n.TpmPresent {
		t.Errorf("node %+v", n)
	}
	if err := os.WriteFile(config.TokenFile, []byte("another.token.of.worker-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := answer("worker-1", 1); err == nil || !strings.Contains(err.Error(), "bound to agent "+string(id)) {
		t.Errorf("a machine without a TPM gets the node of one that has: %v", err)
	}
}
