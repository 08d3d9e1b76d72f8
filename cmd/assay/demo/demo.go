// Package demo tells Assay's story on one machine: a server on loopback and a lab machine with a real kernel, measured boot and a TPM
// emulator; it registers, is enrolled and trusted, is tampered with and caught by name, and comes back by a reboot.
//
// Every step checks what it shows. The package does nothing that a person could not do with the commands that it prints.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/cmd/assay/stage"
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

// story holds what the steps share.
type story struct {
	*stage.Stage
	out    io.Writer
	begin  time.Time
	folder string
}

type step struct {
	title string
	tell  func(context.Context) error
}

// Run tells the whole story.
func Run(ctx context.Context, o Options) (err error) {
	s := &story{out: o.Out, begin: time.Now()}
	if err := s.open(); err != nil {
		return err
	}
	kept := false
	defer func() {
		if !kept {
			err = errors.Join(err, s.Close())
		}
	}()
	tamper := s.tamper
	if o.LeaveUntampered {
		tamper = s.awaitCaught
	}
	steps := []step{
		{"Start a server on loopback (SQLite, its own certificate authorities)", s.startServer},
		{"Boot a machine: Debian's kernel with IMA, UEFI measured boot, a TPM 2.0 emulator", s.boot},
		{"Trust the maker of the machine's TPM", s.endorse},
		{"Let the machine register: its TPM opens a credential made for its EK and AK", s.register},
		{"Make a policy from the machine's own file tree", s.makePolicy},
		{"Enrol the machine under the policy", s.enrol},
		{"Tamper: change " + program + " in the machine and run it", tamper},
		{"Restore the file: this boot's list keeps the entry, so the machine stays Failed", s.restore},
		{"Reboot the machine: a reboot is no attack", s.reboot},
	}
	for i, step := range steps {
		fmt.Fprintln(s.out)
		s.say("%d. %s", i+1, step.title)
		if err := step.tell(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	fmt.Fprintln(s.out)
	s.say("All of it happened.")
	if o.Keep {
		kept = true
		return s.leave()
	}
	return nil
}

// open chooses folder and ports.
func (s *story) open() error {
	folder, err := os.MkdirTemp("", "assay-demo-")
	if err != nil {
		return fmt.Errorf("make the demonstration's folder: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	s.folder = folder
	s.Stage, err = stage.New(stage.Config{
		Folder: folder, Programs: filepath.Dir(self), Firmware: lab.OVMF, Interval: interval,
		Files:    []lab.File{{Path: program, Mode: 0o755, Data: []byte(original)}},
		Progress: func(text string) { s.detail("%s", text) },
	})
	return err
}

func (s *story) say(format string, values ...any) {
	fmt.Fprintf(s.out, "%5.0fs  %s\n", time.Since(s.begin).Seconds(), cli.Printable(fmt.Sprintf(format, values...)))
}

// detail prints a line that belongs to the step above it.
func (s *story) detail(format string, values ...any) {
	fmt.Fprintf(s.out, "          %s\n", cli.Printable(fmt.Sprintf(format, values...)))
}

// leave tells how to go on with what --keep leaves running.
func (s *story) leave() error {
	s.say("Left running, as asked:")
	s.detail("assay login %s --credentials %s", s.URL(), s.Credentials())
	s.detail("assay node show %s", s.Agent)
	s.detail("To end it: kill %d; assay lab down %s; rm -r %s", s.ServerPID(), s.Machine.Dir(), s.folder)
	return s.Detach()
}
