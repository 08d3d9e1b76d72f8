// Package stage sets the scene that the demonstration and the lab's tests share: a server on loopback, and one lab machine that runs the
// agent. It plays no story: it starts and ends things, and waits for what was asked.
package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// agentPort is where the agent listens in the machine; agentLog is its log there.
const (
	agentPort = 9002
	agentLog  = "/var/log/assay-agent.log"
)

// Config says what to set up.
type Config struct {
	// Folder holds everything; Close removes it.
	Folder string
	// Programs is the folder with assay, assay-agent and assay-labinit.
	Programs string
	Firmware lab.Firmware
	// System is lab.Config.System. A Debian comes without an agent and without an IMA policy: they are there to be installed.
	System lab.System
	// Interval between two rounds, 1s at the least.
	Interval time.Duration
	// Files are added to the machine.
	Files []lab.File
	// Supervisor is lab.Config.Supervisor.
	Supervisor []string
	// Progress is told what is being done; may be nil.
	Progress func(string)
}

// Stage is the scene. Its methods are called one at a time.
type Stage struct {
	cfg     Config
	ports   ports
	server  *exec.Cmd
	Client  *client.Client
	Machine *lab.Machine
	// Agent is the machine's id once it has registered.
	Agent attest.AgentID
}

// ports on the host's loopback.
type ports struct{ api, registrar, metrics, agent int }

// New chooses ports. Nothing runs yet.
func New(cfg Config) (*Stage, error) {
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	s := &Stage{cfg: cfg}
	taken := map[int]bool{0: true}
	for _, p := range []*int{&s.ports.api, &s.ports.registrar, &s.ports.metrics, &s.ports.agent} {
		for taken[*p] {
			port, err := lab.FreePort()
			if err != nil {
				return nil, err
			}
			*p = port
		}
		taken[*p] = true
	}
	return s, nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// URL is the native API's.
func (s *Stage) URL() string { return "https://" + loopback(s.ports.api) }

// Credentials is the folder of the first administrator's certificate.
func (s *Stage) Credentials() string { return filepath.Join(s.stateDir(), "administrator") }

// ServerConfig is the path of the server's configuration.
func (s *Stage) ServerConfig() string { return filepath.Join(s.cfg.Folder, "server.yaml") }

// ServerPID is the process of the server.
func (s *Stage) ServerPID() int { return s.server.Process.Pid }

func (s *Stage) stateDir() string  { return filepath.Join(s.cfg.Folder, "server") }
func (s *Stage) serverLog() string { return filepath.Join(s.cfg.Folder, "server.log") }

// StartServer starts the server and waits until it answers. After StopServer or KillServer it goes on with the same state.
func (s *Stage) StartServer(ctx context.Context) error {
	cfg := serve.Default()
	cfg.StateDir, cfg.Names, cfg.Interval = s.stateDir(), []string{hostFromMachine}, conf.Duration(s.cfg.Interval)
	cfg.Listen = serve.Listen{API: loopback(s.ports.api), Registrar: loopback(s.ports.registrar), Metrics: loopback(s.ports.metrics)}
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return fmt.Errorf("server's configuration: %w", err)
	}
	if err := durable.WriteFile(s.ServerConfig(), text, 0o600); err != nil {
		return err
	}
	log, err := os.OpenFile(s.serverLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("server's log: %w", err)
	}
	defer log.Close()
	server := exec.Command(filepath.Join(s.cfg.Programs, "assay"), "server", "--config", s.ServerConfig())
	server.Stdout, server.Stderr = log, log
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := server.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	s.server = server
	err = Eventually(ctx, time.Minute, "the server answers", func(ctx context.Context) (bool, error) {
		if s.Client == nil {
			if s.Client, err = client.FromFolder(s.URL(), s.Credentials()); err != nil {
				s.Client = nil
				return false, err
			}
		}
		_, err := s.Client.Server(ctx)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends with:\n%s", err, s.tailOfServerLog())
	}
	return nil
}

func (s *Stage) tailOfServerLog() string {
	text, err := os.ReadFile(s.serverLog())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// StopServer asks the server to end and waits; KillServer ends it at once, in the middle of whatever it does.
func (s *Stage) StopServer() error { return s.endServer(syscall.SIGTERM) }

// KillServer is StopServer without a warning.
func (s *Stage) KillServer() error { return s.endServer(syscall.SIGKILL) }

func (s *Stage) endServer(how syscall.Signal) error {
	if s.server == nil {
		return nil
	}
	if err := s.server.Process.Signal(how); err != nil {
		return fmt.Errorf("end the server: %w", err)
	}
	err := s.server.Wait()
	s.server = nil
	var exit *exec.ExitError
	if errors.As(err, &exit) && how == syscall.SIGKILL {
		return nil
	}
	return err
}

// AgentConfig is the configuration of an agent that joins by a new token.
func (s *Stage) AgentConfig(ctx context.Context) ([]byte, error) {
	token, err := s.Client.CreateToken(ctx, api.TokenRequest{Lifetime: time.Hour.Seconds()})
	if err != nil {
		return nil, err
	}
	text, err := yaml.Marshal(map[string]any{
		"server":    "https://" + net.JoinHostPort(hostFromMachine, strconv.Itoa(s.ports.api)),
		"joinToken": token.Text,
		"listen":    "0.0.0.0:" + strconv.Itoa(agentPort),
		"contact":   map[string]any{"address": "127.0.0.1", "port": s.ports.agent},
	})
	if err != nil {
		return nil, fmt.Errorf("agent's configuration: %w", err)
	}
	return text, nil
}

// Boot makes the machine, with an agent that joins by a token.
func (s *Stage) Boot(ctx context.Context) error {
	cfg := lab.Config{
		Dir: filepath.Join(s.cfg.Folder, "machine"), Firmware: s.cfg.Firmware, System: s.cfg.System, IMAPolicy: []byte{},
		Init: filepath.Join(s.cfg.Programs, "assay-labinit"), Supervisor: s.cfg.Supervisor,
		Files:    s.cfg.Files,
		Forward:  []lab.Port{{Guest: agentPort, Host: s.ports.agent}},
		Progress: s.cfg.Progress,
	}
	if s.cfg.System != lab.Debian {
		agent, err := s.AgentConfig(ctx)
		if err != nil {
			return err
		}
		cfg.IMAPolicy = ima.HostPolicy()
		cfg.Files = append([]lab.File{
			{Path: "/usr/bin/assay-agent", Mode: 0o755, Source: filepath.Join(s.cfg.Programs, "assay-agent")},
			{Path: "/etc/assay/agent.yaml", Mode: 0o600, Data: agent},
		}, cfg.Files...)
		cfg.Services = []guest.Service{{
			Name: "assay-agent", Args: []string{"/usr/bin/assay-agent", "--config", "/etc/assay/agent.yaml"}, Log: agentLog, AfterNetwork: true,
		}}
	}
	var err error
	s.Machine, err = lab.Up(ctx, cfg)
	return err
}

// Endorse accepts the maker of the machine's TPM.
func (s *Stage) Endorse(ctx context.Context) ([]api.Root, error) {
	root, err := s.Machine.EKRoot()
	if err != nil {
		return nil, err
	}
	added, err := s.Client.AddRoots(ctx, root)
	return added.Added, err
}

// Register waits until the machine has registered, and says who endorses its EK.
func (s *Stage) Register(ctx context.Context) (endorsedBy string, err error) {
	err = Eventually(ctx, 3*time.Minute, "the agent registers", func(ctx context.Context) (bool, error) {
		agents, err := s.Client.Registered(ctx)
		if err != nil || len(agents) == 0 {
			return false, err
		}
		s.Agent = agents[0].Agent
		return true, nil
	})
	if err != nil {
		return "", fmt.Errorf("%w; the agent's log ends with:\n%s", err, s.tailOfAgentLog(ctx))
	}
	check, err := s.Client.CheckEndorsement(ctx, s.Agent)
	if err != nil {
		return "", err
	}
	if !check.Endorsed {
		return "", fmt.Errorf("the EK is not endorsed: %s", check.Failures[0].Detail)
	}
	return check.EndorsedBy, nil
}

func (s *Stage) tailOfAgentLog(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	read := []string{"cat", agentLog}
	if s.cfg.System == lab.Debian {
		read = []string{"journalctl", "--no-pager", "--unit", "assay-agent"}
	}
	log, err := s.Machine.Output(ctx, read...)
	if err != nil {
		return err.Error()
	}
	return log[max(0, len(log)-2000):]
}

// AddTreePolicy makes a Runtime document from the machine's own tree and stores it; earlyBoot are patterns of what may run before the IMA policy.
func (s *Stage) AddTreePolicy(ctx context.Context, name string, earlyBoot ...string) (api.Policy, error) {
	doc, err := policy.BuildRuntime(ctx, policy.BuildOptions{
		Name: name, Tree: os.DirFS(s.Machine.Tree()), EarlyBoot: earlyBoot, IMAPolicies: [][]byte{ima.HostPolicy()},
	})
	if err != nil {
		return api.Policy{}, err
	}
	return s.Client.AddPolicy(ctx, doc.Bytes(), "")
}

// Run runs a command in the machine and returns what it said.
func (s *Stage) Run(ctx context.Context, args ...string) (string, error) {
	text, err := s.Machine.Output(ctx, args...)
	return strings.TrimSpace(text), err
}

// Await waits for a verdict.
func (s *Stage) Await(ctx context.Context, verdict attest.Verdict, patience time.Duration) (api.Node, error) {
	var node api.Node
	err := Eventually(ctx, patience, fmt.Sprintf("verdict %s", verdict), func(ctx context.Context) (bool, error) {
		var err error
		node, err = s.Client.Node(ctx, s.Agent)
		return node.Verdict == verdict, err
	})
	if err != nil {
		return node, fmt.Errorf("%w; it is %s: %s", err, node.Verdict, Reasons(node))
	}
	return node, nil
}

// AwaitRounds waits until n more rounds were accepted.
func (s *Stage) AwaitRounds(ctx context.Context, n uint64, patience time.Duration) (api.Node, error) {
	before, err := s.Client.Node(ctx, s.Agent)
	if err != nil {
		return before, err
	}
	node := before
	err = Eventually(ctx, patience, fmt.Sprintf("%d more rounds", n), func(ctx context.Context) (bool, error) {
		var err error
		node, err = s.Client.Node(ctx, s.Agent)
		return node.Accepted >= before.Accepted+n, err
	})
	return node, err
}

// Reasons lists why a node is not trusted.
func Reasons(n api.Node) string {
	var words []string
	for _, f := range n.Failures {
		words = append(words, fmt.Sprintf("%s %s: %s", f.ID, f.Path, f.Detail))
	}
	if n.Trouble != nil {
		words = append(words, fmt.Sprintf("last round %s: %s", n.Trouble.ID, n.Trouble.Detail))
	}
	return strings.Join(words, "; ")
}

// Close ends everything and removes the folder.
func (s *Stage) Close() error {
	var failures []error
	if s.Machine != nil {
		down, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		failures = append(failures, s.Machine.Down(down))
	}
	failures = append(failures, s.StopServer(), os.RemoveAll(s.cfg.Folder))
	return errors.Join(failures...)
}

// Detach lets server and machine outlive this process.
func (s *Stage) Detach() error {
	if err := s.Machine.Detach(); err != nil {
		return err
	}
	return s.server.Process.Release()
}

// Eventually asks until the answer is yes or it is too late; errors on the way are told at the end.
func Eventually(ctx context.Context, patience time.Duration, what string, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := ask(ctx)
		if err == nil && ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v: %w", what, patience, errors.Join(ctx.Err(), err))
		case <-time.After(200 * time.Millisecond):
		}
	}
}
