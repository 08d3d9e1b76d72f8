// Package demo tells Assay's story on one machine: a server on loopback and a lab machine with a real kernel, measured boot and a TPM
// emulator; it registers, is enrolled and trusted, is tampered with and caught by name, and comes back by a reboot.
//
// Every step checks what it shows. The package does nothing that a person could not do with the commands that it prints.
package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/client"
	"github.com/assay-project/assay/internal/cli"
	"github.com/assay-project/assay/lab"
)

// Options of the demonstration.
type Options struct {
	Out io.Writer
	// Keep leaves server and machine running after a story that ended well.
	Keep bool
	// LeaveUntampered leaves the tampering out; the story must then fail. It shows that the story can fail.
	LeaveUntampered bool
}

// MissingError names what the machine lacks.
func MissingError(missing []lab.Requirement) error {
	var names []string
	for _, r := range missing {
		names = append(names, fmt.Sprintf("%s (Debian package %s)", r.Name, r.Package))
	}
	return fmt.Errorf("missing here: %s; `make demo` installs them", strings.Join(names, ", "))
}

const (
	interval   = 4 * time.Second
	program    = "/usr/bin/nightly-backup"
	policyName = "lab-machine"
	original   = "#!/bin/sh\necho backup done\n"
	tampered   = "#!/bin/sh\necho backup done; echo and something else\n"
)

// story holds what the steps share.
type story struct {
	out     io.Writer
	begin   time.Time
	folder  string
	self    string
	ports   ports
	server  *exec.Cmd
	client  *client.Client
	machine *lab.Machine
	id      attest.AgentID
}

// Run tells the whole story.
func Run(ctx context.Context, o Options) (err error) {
	folder, err := os.MkdirTemp("", "assay-demo-")
	if err != nil {
		return fmt.Errorf("make the demonstration's folder: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s := &story{out: o.Out, begin: time.Now(), folder: folder, self: self}
	kept := false
	defer func() {
		if !kept {
			err = errors.Join(err, s.clean())
		}
	}()
	steps := []struct {
		title string
		run   func(context.Context) error
	}{
		{"Start a server on loopback (SQLite, its own certificate authorities)", s.startServer},
		{"Boot a machine: Debian's kernel with IMA, UEFI measured boot, a TPM 2.0 emulator", s.boot},
		{"Trust the maker of the machine's TPM", s.endorse},
		{"Let the machine register: its TPM opens a credential made for its EK and AK", s.register},
		{"Make a policy from the machine's own file tree", s.makePolicy},
		{"Enrol the machine under the policy", s.enrol},
		{"Tamper: change " + program + " in the machine and run it", s.tamper(o.LeaveUntampered)},
		{"Restore the file: this boot's list keeps the entry, so the machine stays Failed", s.restore},
		{"Reboot the machine: a reboot is no attack", s.reboot},
	}
	for i, step := range steps {
		s.say("\n%d. %s", i+1, step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	s.say("\nAll of it happened, in %v.", time.Since(s.begin).Round(time.Second))
	if o.Keep {
		kept = true
		return s.leave()
	}
	return nil
}

func (s *story) say(format string, values ...any) {
	text := fmt.Sprintf(format, values...)
	if rest, ok := strings.CutPrefix(text, "\n"); ok {
		fmt.Fprintln(s.out)
		text = rest
	}
	fmt.Fprintf(s.out, "%5.0fs  %s\n", time.Since(s.begin).Seconds(), cli.Printable(text))
}

// detail prints a line that belongs to the step above it.
func (s *story) detail(format string, values ...any) {
	fmt.Fprintf(s.out, "        %s\n", cli.Printable(fmt.Sprintf(format, values...)))
}

func (s *story) clean() error {
	var failures []error
	if s.machine != nil {
		down, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		failures = append(failures, s.machine.Down(down))
	}
	if s.server != nil {
		_ = s.server.Process.Signal(syscall.SIGTERM)
		_ = s.server.Wait()
	}
	return errors.Join(append(failures, os.RemoveAll(s.folder))...)
}

// leave tells how to go on with what --keep leaves running.
func (s *story) leave() error {
	if err := s.machine.Detach(); err != nil {
		return err
	}
	s.say("\nLeft running, as asked:")
	s.detail("assay login https://127.0.0.1:%d --credentials %s", s.ports.api, filepath.Join(s.folder, "server", "administrator"))
	s.detail("assay node show %s", s.id)
	s.detail("to end it: kill %d; assay lab supervisor of %s ends with `kill $(cat %s/supervisor.pid)`; rm -r %s", s.server.Process.Pid, s.machine.Dir(), s.machine.Dir(), s.folder)
	return s.server.Process.Release()
}

// eventually asks until the answer is yes, an error or too late.
func eventually(ctx context.Context, patience time.Duration, what string, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		ok, err := ask(ctx)
		if err == nil && ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %v (last: %w)", what, patience, errors.Join(err, ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// await waits for a verdict and returns the node and how long it took.
func (s *story) await(ctx context.Context, verdict attest.Verdict, patience time.Duration) (api.Node, error) {
	begin := time.Now()
	var node api.Node
	err := eventually(ctx, patience, fmt.Sprintf("verdict %s", verdict), func(ctx context.Context) (bool, error) {
		var err error
		node, err = s.client.Node(ctx, s.id)
		return node.Verdict == verdict, err
	})
	if err != nil {
		return node, fmt.Errorf("%w; it is %s: %s", err, node.Verdict, reasons(node))
	}
	s.say("   %s, after %v", verdict, time.Since(begin).Round(100*time.Millisecond))
	return node, nil
}

func reasons(n api.Node) string {
	var words []string
	for _, f := range n.Failures {
		words = append(words, fmt.Sprintf("%s %s %s", f.ID, f.Path, f.Detail))
	}
	if n.Trouble != nil {
		words = append(words, fmt.Sprintf("last round %s: %s", n.Trouble.ID, n.Trouble.Detail))
	}
	return strings.Join(words, "; ")
}

// output runs a command in the machine.
func (s *story) output(ctx context.Context, args ...string) (string, error) {
	text, err := s.machine.Output(ctx, args...)
	return strings.TrimSpace(text), err
}

// tailOf returns the last lines of a log, for an error.
func tailOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}
