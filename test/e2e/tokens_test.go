package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/kube/v1alpha1"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/test/world"
)

// stranger is an agent with a TPM of its own that presents tokens which are not its node's.
type stranger struct {
	*story
	dir, tokenFile, log string
	agent               *exec.Cmd
}

// stranger manufactures a TPM outside of the cluster.
func (w *story) stranger() *stranger {
	w.Helper()
	dir, err := os.MkdirTemp("", "s-") // t.TempDir's paths are too long for Unix sockets
	w.Must(err)
	w.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			w.Error(err)
		}
	})
	options := swtpm.Options{StateDir: filepath.Join(dir, "tpm"), CADir: filepath.Join(dir, "ca")}
	w.Must(swtpm.Manufacture(w.Ctx, options))
	emulator, err := swtpm.Start(w.Ctx, swtpm.Config{StateDir: options.StateDir})
	w.Must(err)
	s := &stranger{story: w, dir: dir, tokenFile: filepath.Join(dir, "token"), log: filepath.Join(dir, "log")}
	w.Cleanup(func() {
		s.end()
		if err := emulator.Stop(); err != nil {
			w.Error(err)
		}
	})
	port, err := lab.FreePort()
	w.Must(err)
	address := w.Cluster.Node("node1").Address()
	config, err := yaml.Marshal(map[string]any{
		"server": fmt.Sprintf("%s:%d", address, world.APIPort), "registrar": fmt.Sprintf("%s:%d", address, world.RegistrarPort), "ca": filepath.Join(w.Home, "administrator", "ca.pem"),
		"tokenFile": s.tokenFile, "tpm": "swtpm:" + emulator.Socket(), "stateDir": filepath.Join(dir, "state"), "user": "", "metrics": "", "imaList": "", "bootLog": "",
		"listen": fmt.Sprintf("127.0.0.1:%d", port), "heartbeat": "1s",
	})
	w.Must(err)
	w.Must(os.WriteFile(filepath.Join(dir, "agent.yaml"), config, 0o600))
	return s
}

// present starts the agent anew with a token.
func (s *stranger) present(token string) {
	s.Helper()
	s.end()
	s.Must(os.WriteFile(s.tokenFile, []byte(token), 0o600))
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	s.Must(err)
	defer log.Close()
	s.agent = exec.Command(world.Built(s.T, "assay-agent"), "--config", filepath.Join(s.dir, "agent.yaml"))
	s.agent.Stdout, s.agent.Stderr = log, log
	s.Must(s.agent.Start())
}

func (s *stranger) end() {
	if s.agent == nil {
		return
	}
	if err := s.agent.Process.Signal(syscall.SIGTERM); err != nil {
		s.Error(err)
	}
	_ = s.agent.Wait() // how it ends is not what is tested
	s.agent = nil
}

// refused waits until the server's log gives a reason.
func (s *stranger) refused(reason string) {
	s.Helper()
	s.Eventually(fmt.Sprintf("the server's log tells %q", reason), time.Minute, func() string {
		out, err := s.Cluster.Kubectl(s.Ctx, "logs", "-n", world.Namespace, "sts/assay-server", "--since=30s")
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(out, reason) {
			text, _ := os.ReadFile(s.log)
			return "the agent's log: " + string(text[max(0, len(text)-1000):])
		}
		return ""
	})
}

// token is one of the agents' account, bound to a node.
func (w *story) token(node, audience string) string {
	w.Helper()
	out, err := w.Cluster.Kubectl(w.Ctx, "create", "token", "assay-agent", "-n", world.Namespace, "--audience", audience, "--bound-object-kind", "Node", "--bound-object-name", node,
		"--bound-object-uid", w.Node(node).Metadata.UID)
	w.Must(err)
	return strings.TrimSpace(out)
}

// expired signs a token's claims anew, with an end of validity that has passed: the cluster's own key makes it a true one otherwise.
func (w *story) expired(token string) string {
	w.Helper()
	parts := strings.Split(token, ".")
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	w.Must(err)
	var claims map[string]any
	w.Must(json.Unmarshal(body, &claims))
	now := time.Now()
	claims["iat"], claims["nbf"], claims["exp"] = now.Add(-2*time.Hour).Unix(), now.Add(-2*time.Hour).Unix(), now.Add(-time.Hour).Unix()
	body, err = json.Marshal(claims)
	w.Must(err)
	signed := parts[0] + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(signed))
	r, t, err := ecdsa.Sign(rand.Reader, w.accountsKey(), digest[:])
	w.Must(err)
	signature := make([]byte, 64) // ES256: both numbers in 32 bytes
	r.FillBytes(signature[:32])
	t.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// accountsKey is the key that the cluster signs service account tokens with.
func (w *story) accountsKey() *ecdsa.PrivateKey {
	w.Helper()
	var found string
	w.Must(filepath.WalkDir(w.Cluster.Dir(), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "accounts.key" {
			found = path
		}
		return nil // folders of running pods come and go
	}))
	text, err := os.ReadFile(found)
	w.Must(err)
	block, _ := pem.Decode(text)
	if block == nil {
		w.Fatalf("%s is not PEM", found)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	w.Must(err)
	return key.(*ecdsa.PrivateKey)
}

// foreignTokens: an agent that presents what is not its node's token gets nothing, and a reason is given.
func (w *story) foreignTokens() {
	w.Helper()
	before := w.Report("vm1").Status.Agent
	w.Must(w.Cluster.Apply(w.Ctx, "{apiVersion: v1, kind: Node, metadata: {name: ghost}}"))
	s := w.stranger()

	s.present(w.token("vm1", "elsewhere"))
	s.refused("TokenAudience")
	s.present(w.expired(w.token("vm1", "assay")))
	s.refused("TokenExpired")

	s.present(w.token("vm1", "assay"))
	w.Eventually("vm1's report tells of a refused claim", time.Minute, func() string {
		if r := w.Report("vm1").Status.Refusal; r == nil || r.Reason != "AlreadyBound" {
			return fmt.Sprint(r)
		}
		return ""
	})
	// A node that nobody has: this time the token is good, and the TPM is bound to it, though nobody whom the server believes vouches for it.
	s.present(w.token("ghost", "assay"))
	w.Condition("ghost", v1alpha1.ConditionEndorsed, metav1.ConditionFalse, "EkNotEndorsed")
	s.present(w.token("node2", "assay"))
	w.Eventually("a TPM that is bound to a live node gets no second one", time.Minute, func() string {
		if r := w.Report("node2").Status.Refusal; r == nil || r.Reason != "AlreadyBound" {
			return fmt.Sprint(r)
		}
		return ""
	})
	s.end()
	_, err := w.Cluster.Kubectl(w.Ctx, "delete", "node", "ghost")
	w.Must(err)
	if after := w.Report("vm1").Status; after.Agent != before || after.Verdict != "Trusted" {
		w.Errorf("vm1 was agent %s and Trusted, and is %s and %s", before, after.Agent, after.Verdict)
	}
}
