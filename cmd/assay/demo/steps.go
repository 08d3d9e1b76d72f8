package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/cmd/assay/serve"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/internal/conf"
	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/guest"
	"github.com/assay-project/assay/policy"
)

// hostFromMachine is where a lab machine finds the loopback of its host (QEMU's user networking).
const hostFromMachine = "10.0.2.2"

// ports on the host's loopback.
type ports struct{ api, registrar, metrics, agent int }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (s *story) choosePorts() error {
	taken := map[int]bool{0: true}
	for _, p := range []*int{&s.ports.api, &s.ports.registrar, &s.ports.metrics, &s.ports.agent} {
		for taken[*p] {
			port, err := lab.FreePort()
			if err != nil {
				return err
			}
			*p = port
		}
		taken[*p] = true
	}
	return nil
}

func (s *story) startServer(ctx context.Context) error {
	if err := s.choosePorts(); err != nil {
		return err
	}
	cfg := serve.Default()
	cfg.StateDir, cfg.Names, cfg.Interval = filepath.Join(s.folder, "server"), []string{hostFromMachine}, conf.Duration(interval)
	cfg.Listen = serve.Listen{API: loopback(s.ports.api), Registrar: loopback(s.ports.registrar), Metrics: loopback(s.ports.metrics)}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return err
	}
	file := filepath.Join(s.folder, "server.yaml")
	if err := durable.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(s.folder, "server.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.server = exec.Command(s.self, "server", "--file", file)
	s.server.Stdout, s.server.Stderr = log, log
	s.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.server.Start(); err != nil {
		s.server = nil
		return fmt.Errorf("start the server: %w", err)
	}
	err = eventually(ctx, 30*time.Second, "the server answers", func(ctx context.Context) (bool, error) {
		if s.client == nil {
			if s.client, err = administrator(filepath.Join(cfg.StateDir, "administrator"), s.ports.api); err != nil {
				return false, err
			}
		}
		_, err := s.client.Server(ctx)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends with:\n%s", err, tailOf(log.Name()))
	}
	s.detail("assay server --file %s", file)
	return nil
}

// administrator makes a client with the certificate that the server printed at its first start.
func administrator(folder string, port int) (*client.Client, error) {
	ca, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return client.New(client.Config{URL: "https://" + loopback(port), TLS: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{pair}}})
}

func (s *story) boot(ctx context.Context) error {
	token, err := s.client.CreateToken(ctx, api.TokenRequest{Lifetime: time.Hour.Seconds()})
	if err != nil {
		return err
	}
	agent, err := yaml.Marshal(map[string]any{
		"server":    "https://" + net.JoinHostPort(hostFromMachine, strconv.Itoa(s.ports.api)),
		"registrar": "https://" + net.JoinHostPort(hostFromMachine, strconv.Itoa(s.ports.registrar)),
		"joinToken": token.Text,
		"listen":    "0.0.0.0:9002",
		"contact":   map[string]any{"address": "127.0.0.1", "port": s.ports.agent},
	})
	if err != nil {
		return err
	}
	s.machine, err = lab.Up(ctx, lab.Config{
		Dir: filepath.Join(s.folder, "machine"), Firmware: lab.OVMF, IMAPolicy: ima.HostPolicy(),
		Files: []lab.File{
			{Path: "/usr/bin/assay-agent", Mode: 0o755, Source: filepath.Join(filepath.Dir(s.self), "assay-agent")},
			{Path: "/etc/assay/agent.yaml", Mode: 0o600, Data: agent},
			{Path: program, Mode: 0o755, Data: []byte(original)},
		},
		Services: []guest.Service{{Name: "assay-agent", Args: []string{"/usr/bin/assay-agent", "--config", "/etc/assay/agent.yaml"}, AfterNetwork: true}},
		Forward:  []lab.Port{{Guest: 9002, Host: s.ports.agent}},
		Progress: func(text string) { s.detail("%s", text) },
	})
	if err != nil {
		return err
	}
	release, err := s.output(ctx, "uname", "-r")
	if err != nil {
		return err
	}
	s.say("   up: Linux %s", release)
	return nil
}

func (s *story) endorse(ctx context.Context) error {
	root, err := s.machine.EKRoot()
	if err != nil {
		return err
	}
	file := filepath.Join(s.folder, "tpm-maker.pem")
	if err := durable.WriteFile(file, root, 0o644); err != nil {
		return err
	}
	added, err := s.client.AddRoots(ctx, root)
	if err != nil {
		return err
	}
	s.detail("assay endorsement add %s", file)
	for _, r := range added.Added {
		s.detail("accepted: %s", r.Subject)
	}
	return nil
}

func (s *story) register(ctx context.Context) error {
	err := eventually(ctx, 3*time.Minute, "the agent registers", func(ctx context.Context) (bool, error) {
		agents, err := s.client.Registered(ctx)
		if err != nil || len(agents) == 0 {
			return false, err
		}
		s.id = agents[0].Agent
		return true, nil
	})
	if err != nil {
		log, _ := s.machine.ReadFile(context.WithoutCancel(ctx), "/var/log/assay-agent.log")
		return fmt.Errorf("%w; the agent's log:\n%s", err, log[max(0, len(log)-2000):])
	}
	check, err := s.client.CheckEndorsement(ctx, s.id)
	if err != nil {
		return err
	}
	if !check.Endorsed {
		return fmt.Errorf("the EK is not endorsed: %s", check.Failures[0].Detail)
	}
	s.say("   registered as %s", s.id)
	s.detail("EK certificate checked: endorsed by %s", check.EndorsedBy)
	return nil
}

func (s *story) makePolicy(ctx context.Context) error {
	doc, err := policy.BuildRuntime(ctx, policy.BuildOptions{
		Name: policyName, Tree: s.machine.Tree(), IMAPolicies: [][]byte{ima.HostPolicy()},
	})
	if err != nil {
		return err
	}
	stored, err := s.client.AddPolicy(ctx, doc, "")
	if err != nil {
		return err
	}
	s.detail("assay policy create runtime %s --tree %s --ima-policy deploy/ima/host.policy | assay policy add -", policyName, s.machine.Tree())
	s.say("   policy %s, %d bytes, %s", stored.Name, stored.Size, stored.Digest)
	return nil
}

func (s *story) enrol(ctx context.Context) error {
	if _, err := s.client.Enrol(ctx, api.EnrolRequest{ID: s.id, Policies: []string{policyName}}); err != nil {
		return err
	}
	s.detail("assay node enrol %s --policy %s", s.id, policyName)
	node, err := s.await(ctx, attest.Trusted, 2*time.Minute)
	if err != nil {
		return err
	}
	s.detail("%d list entries proven by a quote of its TPM, boot %s", node.Position, node.Boot)
	return nil
}

func (s *story) tamper(leaveOut bool) func(context.Context) error {
	return func(ctx context.Context) error {
		if !leaveOut {
			if err := s.change(ctx, tampered); err != nil {
				return err
			}
		}
		node, err := s.await(ctx, attest.Failed, 2*interval+interval/2)
		if err != nil {
			return err
		}
		return s.checkCaught(node)
	}
}

// change writes the program and runs it.
func (s *story) change(ctx context.Context, content string) error {
	if err := s.machine.WriteFile(ctx, program, 0o755, []byte(content)); err != nil {
		return err
	}
	said, err := s.output(ctx, program)
	if err != nil {
		return err
	}
	s.detail("the machine runs it: %s", said)
	return nil
}

// checkCaught holds the failure against what was done: path, both digests, the policy.
func (s *story) checkCaught(n api.Node) error {
	want, seen := attest.SHA256.Sum([]byte(original)).String(), attest.SHA256.Sum([]byte(tampered)).String()
	for _, f := range n.Failures {
		if f.ID == attest.FileDigestMismatch && f.Path == program {
			s.detail("%s: %s", f.ID, f.Detail)
			s.detail("path     %s", f.Path)
			s.detail("seen     %s", f.Seen)
			s.detail("allowed  %v", f.Allowed)
			s.detail("policy   %s", f.Policy)
			if f.Seen != seen || !slices.Contains(f.Allowed, want) || f.Policy != policyName || !n.QuoteBacked {
				return errors.New("the failure does not name what was done")
			}
			return nil
		}
	}
	return fmt.Errorf("the tampering is not named: %s", reasons(n))
}

func (s *story) restore(ctx context.Context) error {
	if err := s.change(ctx, original); err != nil {
		return err
	}
	before, err := s.client.Node(ctx, s.id)
	if err != nil {
		return err
	}
	// Two more accepted rounds have seen the restored file.
	var node api.Node
	err = eventually(ctx, time.Minute, "two more rounds", func(ctx context.Context) (bool, error) {
		node, err = s.client.Node(ctx, s.id)
		return node.Accepted >= before.Accepted+2, err
	})
	if err != nil {
		return err
	}
	if node.Verdict != attest.Failed {
		return fmt.Errorf("the verdict is %s, not Failed", node.Verdict)
	}
	s.say("   still Failed after %d more rounds", node.Accepted-before.Accepted)
	return nil
}

func (s *story) reboot(ctx context.Context) error {
	before, err := s.client.Node(ctx, s.id)
	if err != nil {
		return err
	}
	if err := s.machine.Reboot(ctx); err != nil {
		return err
	}
	s.say("   up again")
	node, err := s.await(ctx, attest.Trusted, 3*time.Minute)
	if err != nil {
		return err
	}
	if node.Boot == before.Boot {
		return errors.New("the boot is the old one")
	}
	results, err := s.client.Results(ctx, s.id)
	if err != nil {
		return err
	}
	s.detail("the whole history (assay node history %s):", s.id)
	for _, t := range results {
		text := fmt.Sprintf("%s  %s -> %s (%s)", t.At.Local().Format("15:04:05"), t.From, t.To, t.Cause)
		for _, f := range t.Failures {
			text += fmt.Sprintf("  %s %s", f.ID, f.Path)
		}
		s.detail("%s", text)
	}
	return nil
}
