package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
)

const (
	interval   = 4 * time.Second
	program    = "/usr/bin/nightly-backup"
	policyName = "lab-machine"
	original   = "#!/bin/sh\necho backup done\n"
	tampered   = "#!/bin/sh\necho backup done, and something else\n"
)

func (s *story) startServer(ctx context.Context) error {
	if err := s.StartServer(ctx); err != nil {
		return err
	}
	s.detail("assay server --config %s", s.ServerConfig())
	s.detail("assay login %s --credentials %s", s.URL(), s.Credentials())
	return nil
}

func (s *story) boot(ctx context.Context) error {
	if err := s.Boot(ctx); err != nil {
		return err
	}
	s.say("   up: Linux %s", s.Machine.KernelRelease())
	return nil
}

func (s *story) endorse(ctx context.Context) error {
	roots, err := s.Endorse(ctx)
	if err != nil {
		return err
	}
	s.detail("assay endorsement add FILE")
	for _, r := range roots {
		s.detail("accepted: %s", r.Subject)
	}
	return nil
}

func (s *story) register(ctx context.Context) error {
	by, err := s.Register(ctx)
	if err != nil {
		return err
	}
	s.say("   registered as %s", s.Agent)
	s.detail("its EK certificate was checked: endorsed by %s", by)
	return nil
}

func (s *story) makePolicy(ctx context.Context) error {
	p, err := s.AddTreePolicy(ctx, policyName)
	if err != nil {
		return err
	}
	s.detail("assay policy create runtime %s --tree %s --ima-policy deploy/ima/host.policy | assay policy add -", policyName, s.Machine.Tree())
	s.say("   policy %s: %d bytes, %s", p.Name, p.Size, p.Digest)
	return nil
}

func (s *story) enrol(ctx context.Context) error {
	if _, err := s.Client.Enrol(ctx, api.EnrolRequest{ID: s.Agent, Policies: []string{policyName}}); err != nil {
		return err
	}
	s.detail("assay node enrol %s --policy %s", s.Agent, policyName)
	node, err := s.await(ctx, attest.Trusted, 2*time.Minute)
	if err != nil {
		return err
	}
	s.detail("%d list entries are proven by a quote of its TPM, boot %s", node.Position, node.Boot)
	return nil
}

func (s *story) await(ctx context.Context, verdict attest.Verdict, patience time.Duration) (api.Node, error) {
	begin := time.Now()
	node, err := s.Await(ctx, verdict, patience)
	if err == nil {
		s.say("   %s, after %.1f s", verdict, time.Since(begin).Seconds())
	}
	return node, err
}

func (s *story) tamper(ctx context.Context) error {
	if err := s.change(ctx, tampered); err != nil {
		return err
	}
	return s.awaitCaught(ctx)
}

// change writes the program and runs it.
func (s *story) change(ctx context.Context, content string) error {
	if err := s.Machine.WriteFile(ctx, program, 0o755, []byte(content)); err != nil {
		return err
	}
	said, err := s.Run(ctx, program)
	if err != nil {
		return err
	}
	s.detail("the machine runs it: %s", said)
	return nil
}

// awaitCaught wants the verdict within two intervals and holds the failure against what was done: path, both digests, policy.
func (s *story) awaitCaught(ctx context.Context) error {
	node, err := s.await(ctx, attest.Failed, 2*interval)
	if err != nil {
		return err
	}
	want, seen := attest.SHA256.Sum([]byte(original)).String(), attest.SHA256.Sum([]byte(tampered)).String()
	at := slices.IndexFunc(node.Failures, func(f attest.Failure) bool { return f.ID == attest.FileDigestMismatch && f.Path == program })
	if at < 0 {
		return fmt.Errorf("the tampering is not named: %s", stage.Reasons(node))
	}
	f := node.Failures[at]
	s.detail("%s: %s", f.ID, f.Detail)
	s.detail("path     %s", f.Path)
	s.detail("seen     %s", f.Seen)
	for _, allowed := range f.Allowed {
		s.detail("allowed  %s", allowed)
	}
	s.detail("policy   %s", f.Policy)
	if f.Seen != seen || !slices.Contains(f.Allowed, want) || f.Policy != policyName || !node.QuoteBacked {
		return errors.New("the failure does not name what was done")
	}
	return nil
}

func (s *story) restore(ctx context.Context) error {
	if err := s.change(ctx, original); err != nil {
		return err
	}
	const rounds = 2
	node, err := s.AwaitRounds(ctx, rounds, time.Minute)
	if err != nil {
		return err
	}
	if node.Verdict != attest.Failed {
		return fmt.Errorf("the verdict is %s, not Failed", node.Verdict)
	}
	s.say("   still Failed after %d more rounds", rounds)
	return nil
}

func (s *story) reboot(ctx context.Context) error {
	before, err := s.Client.Node(ctx, s.Agent)
	if err != nil {
		return err
	}
	if err := s.Machine.Reboot(ctx); err != nil {
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
	results, err := s.Client.Results(ctx, s.Agent)
	if err != nil {
		return err
	}
	s.detail("assay node history %s", s.Agent)
	for _, t := range results {
		text := fmt.Sprintf("%s  %s -> %s (%s)", t.At.Local().Format("15:04:05"), t.From, t.To, t.Cause)
		for _, f := range t.Failures {
			text += fmt.Sprintf("  %s %s", f.ID, f.Path)
		}
		s.detail("  %s", text)
	}
	return nil
}
