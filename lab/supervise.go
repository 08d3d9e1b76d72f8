package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/host"
	"github.com/assay-project/assay/lab/leash"
)

// superviseArgs come before the folder on a supervisor's command line.
var superviseArgs = []string{"lab", "supervise"}

// tpmPatience is how long an emulated TPM may take to start.
const tpmPatience = time.Minute

// RunSupervisor makes this process a supervisor, and does not return, if Up started it as one. A test binary whose tests call Up calls it
// first in TestMain; the command line program calls Supervise from its own parser.
func RunSupervisor() {
	args := os.Args[1:]
	if len(args) != len(superviseArgs)+1 || !slices.Equal(args[:len(superviseArgs)], superviseArgs) {
		return
	}
	if err := Supervise(args[len(superviseArgs)]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Supervise runs the machine in a folder that Up has made, until it is asked to end it, gets SIGTERM, or finds its stdin closed without
// having been detached, which is how it learns of its parent's death. Then it removes the folder.
func Supervise(folder string) error {
	// The kernel kills QEMU and swtpm when the thread that started them ends: this one stays.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	var s spec
	if err := durable.ReadJSON(filepath.Join(folder, specFile), &s); err != nil {
		return fmt.Errorf("supervise %s: %w", folder, err)
	}
	dir, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	defer dir.Close()
	l, err := leash.Listen(folder)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	sup := &supervisor{
		folder: folder, spec: s, log: log, sockets: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd()),
		console: console{path: filepath.Join(folder, consoleFile)},
	}
	if err := sup.start(); err != nil {
		sup.ended = err.Error()
		log.Error("start", "err", err)
	}
	asker := l.Serve(askDown, sup.answer)
	err = errors.Join(sup.stop(), os.RemoveAll(folder))
	if asker != nil {
		asker.Reply("", err)
	}
	return errors.Join(err, l.Close())
}

// A supervisor owns the processes of one machine. Everything in it happens in the one goroutine of Supervise.
type supervisor struct {
	folder  string
	sockets string // a short name of folder for the TPM's socket, good while dir is open
	spec    spec
	log     *slog.Logger

	console console
	qemu    *exec.Cmd
	gone    chan error // QEMU's end; nil while the machine is off
	qmp     *qmp
	tpm     *swtpm.Emulator
	taps    []*os.File // open over power cuts: a tap that was made for this machine lives as long as they
	ended   string
}

// answer replies with how QEMU ended, if it did.
func (s *supervisor) answer(r leash.Request) (ended string, err error) {
	select {
	case end := <-s.gone:
		s.gone = nil
		s.ended = fmt.Sprintf("QEMU ended: %s: %s", exitText(end), host.Tail(filepath.Join(s.folder, qemuLog), 3))
	default:
	}
	switch r.Ask {
	case askStatus:
	case askMute:
		return s.console.mute().String(), nil
	case askPowerCut:
		s.log.Info("power cut", "mute", s.console.mute())
		err = s.powerCut()
	case askLinkUp, askLinkDown:
		if s.gone == nil {
			return s.ended, ErrNoSupervisor
		}
		err = s.qmp.execute("set_link", map[string]any{"name": machineNet, "up": r.Ask == askLinkUp})
	default:
		err = fmt.Errorf("unknown request %q", r.Ask)
	}
	return s.ended, err
}

// start switches the machine on for the first time: the TPM first, as on a board.
func (s *supervisor) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	tpm, err := swtpm.Start(ctx, swtpm.Config{StateDir: filepath.Join(s.folder, tpmDir), SocketDir: s.sockets, Audience: swtpm.Machine})
	if err != nil {
		return err
	}
	s.tpm = tpm
	return s.startQEMU()
}

// powerCut takes the power away from the machine and from its TPM, neither of which gets a chance to say farewell, and switches it on again.
func (s *supervisor) powerCut() error {
	if err := s.killQEMU(); err != nil {
		return err
	}
	if s.tpm == nil {
		return s.start()
	}
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	if err := s.tpm.Cycle(ctx, swtpm.PowerCut); err != nil {
		return err
	}
	return s.startQEMU()
}

func (s *supervisor) startQEMU() error {
	s.ended = ""
	for _, tap := range s.spec.Taps[len(s.taps):] {
		f, err := openTap(tap.Tap)
		if err != nil {
			return err
		}
		s.taps = append(s.taps, f)
	}
	accel, err := accelerator()
	if err != nil {
		return err
	}
	bin, err := host.Program("qemu-system-x86_64", "qemu-system-x86")
	if err != nil {
		return err
	}
	cmd := exec.Command(bin, qemuArgs(s.spec, accel, s.tpm.Control())...)
	cmd.Dir, cmd.ExtraFiles = s.folder, s.taps
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	log, err := os.OpenFile(filepath.Join(s.folder, qemuLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	defer log.Close()
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	s.qemu, s.gone = cmd, make(chan error, 1)
	s.console.start()
	s.qmp = newQMP(in, out, s.event)
	go func(gone chan<- error, q *qmp) {
		<-q.ended // Wait closes the pipe that it reads from
		err := cmd.Wait()
		s.log.Info("QEMU ended", "how", exitText(err))
		gone <- err
	}(s.gone, s.qmp)
	if err := s.record(); err != nil {
		return err
	}
	if err := s.qmp.greet(); err != nil {
		return fmt.Errorf("%w: %s", err, host.Tail(filepath.Join(s.folder, qemuLog), 3))
	}
	return nil
}

// event is told what happens in QEMU (docs of QMP, "RESET": the machine starts anew).
func (s *supervisor) event(name string) {
	s.log.Info("qemu", "event", name)
	if name == "RESET" {
		s.console.start()
	}
}

func (s *supervisor) killQEMU() error {
	if s.gone == nil {
		return nil
	}
	if err := s.qemu.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill QEMU: %w", err)
	}
	<-s.gone
	s.gone = nil
	return nil
}

// stop ends both processes for good.
func (s *supervisor) stop() error {
	err := s.killQEMU()
	if s.tpm != nil {
		err = errors.Join(err, s.tpm.Stop())
	}
	for _, tap := range s.taps {
		err = errors.Join(err, tap.Close())
	}
	return err
}

// running names the processes that Down looks after. swtpm is not among them: the kernel ends it with the supervisor.
type running struct {
	Supervisor leash.Process `json:"supervisor"`
	QEMU       leash.Process `json:"qemu"`
}

func (s *supervisor) record() error {
	self, err := leash.Identify(os.Getpid())
	if err != nil {
		return err
	}
	qemu, err := leash.Identify(s.qemu.Process.Pid)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, fs.ErrNotExist) {
		return nil // it ended at once, and its greeting will be missed
	}
	if err != nil {
		return err
	}
	return durable.WriteJSON(filepath.Join(s.folder, runFile), running{Supervisor: self, QEMU: qemu}, 0o600)
}

func exitText(err error) string {
	if err == nil {
		return "the machine was switched off"
	}
	return err.Error()
}
