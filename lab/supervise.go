package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/assay-project/assay/internal/durable"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/lab/host"
)

// superviseArgs come before the folder on a supervisor's command line.
var superviseArgs = []string{"lab", "supervise"}

// detachWord is what a supervisor reads on its stdin when its machine may outlive the process that made it.
const detachWord = "detach"

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
	if err := readJSON(filepath.Join(folder, specFile), &s); err != nil {
		return fmt.Errorf("supervise %s: %w", folder, err)
	}
	dir, err := os.Open(folder)
	if err != nil {
		return fmt.Errorf("supervise: %w", err)
	}
	defer dir.Close()
	l, err := net.Listen("unix", shortPath(dir, controlSocket))
	if err != nil {
		return fmt.Errorf("supervise %s: %w", folder, err)
	}
	defer l.Close()
	questions := make(chan question)
	go serveControl(l, questions)
	sup := &supervisor{folder: folder, spec: s, log: log, sockets: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd())}
	if err := sup.start(); err != nil {
		sup.ended = err.Error()
		log.Error("start", "err", err)
	}
	sup.loop(questions)
	return errors.Join(sup.stop(), os.RemoveAll(folder))
}

// A supervisor owns the processes of one machine. Everything in it happens in the one goroutine of Supervise.
type supervisor struct {
	folder  string
	sockets string // a short name of folder for the TPM's socket, good while dir is open
	spec    spec
	log     *slog.Logger

	qemu  *exec.Cmd
	gone  chan error // QEMU's end; nil while the machine is off
	qmp   *qmp
	tpm   *swtpm.Emulator
	taps  []*os.File // open over power cuts: a tap that was made for this machine lives as long as they
	ended string
}

func (s *supervisor) loop(questions <-chan question) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	orphaned := watchParent(os.Stdin)
	for {
		select {
		case <-signals:
			return
		case detached := <-orphaned:
			if !detached {
				return
			}
		case err := <-s.gone:
			s.gone = nil
			s.ended = fmt.Sprintf("QEMU ended: %s: %s", exitText(err), tail(filepath.Join(s.folder, qemuLog), 3))
			s.log.Info("ended", "how", s.ended)
		case q := <-questions:
			err := s.answer(q.ask)
			answer := controlAnswer{Ended: s.ended}
			if err != nil {
				answer.Error = err.Error()
			}
			q.reply <- answer
			if q.ask == askDown {
				return
			}
		}
	}
}

// watchParent reports once: true when the parent lets go of the machine, false when it is gone.
func watchParent(stdin io.Reader) <-chan bool {
	report := make(chan bool, 1)
	go func() {
		line, err := bufio.NewReader(stdin).ReadString('\n')
		report <- err == nil && line == detachWord+"\n"
	}()
	return report
}

func (s *supervisor) answer(what string) error {
	switch what {
	case askStatus, askDown:
		return nil
	case askPowerCut:
		return s.powerCut()
	case askLinkUp, askLinkDown:
		if s.gone == nil {
			return ErrNoSupervisor
		}
		return s.qmp.execute("set_link", map[string]any{"name": machineNet, "up": what == askLinkUp})
	}
	return fmt.Errorf("unknown request %q", what)
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
	s.qmp = newQMP(in, out, s.log)
	go func(gone chan<- error, q *qmp) {
		<-q.ended // Wait closes the pipe that it reads from
		gone <- cmd.Wait()
	}(s.gone, s.qmp)
	if err := s.record(); err != nil {
		return err
	}
	if err := s.qmp.greet(); err != nil {
		return fmt.Errorf("%w: %s", err, tail(filepath.Join(s.folder, qemuLog), 3))
	}
	return nil
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
	Supervisor process `json:"supervisor"`
	QEMU       process `json:"qemu"`
}

func (s *supervisor) record() error {
	self, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	qemu, err := identify(s.qemu.Process.Pid)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, fs.ErrNotExist) {
		return nil // it ended at once, and its greeting will be missed
	}
	if err != nil {
		return err
	}
	return writeJSON(filepath.Join(s.folder, runFile), running{Supervisor: self, QEMU: qemu})
}

func exitText(err error) string {
	if err == nil {
		return "the machine was switched off"
	}
	return err.Error()
}

// tail returns the last lines of a file, on one line; nothing if it cannot be read.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return host.LastLines(string(data), lines)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return durable.WriteFile(path, data, 0o600)
}

// startSupervisor runs the supervisor as a child in a session of its own. The returned pipe is its stdin.
func startSupervisor(ctx context.Context, command []string, folder string) (*exec.Cmd, io.WriteCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	cmd := exec.Command(command[0], append(slices.Clone(command[1:]), folder)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := os.OpenFile(filepath.Join(folder, supervisorLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	leash, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start supervisor: %w", err)
	}
	return cmd, leash, nil
}
